//! What runs inside containers and clients: servers, clients, and what they say.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use skep_ebpf_loader::Datapath;

use crate::lab::Space;

pub const APP: u32 = 4097;
pub const INGRESS: u32 = 4096;
pub const PATIENCE: Duration = Duration::from_secs(3);

pub fn app(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, last)
}

pub fn ingress(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, last)
}

/// A TCP server in a namespace: says its own name and whom it sees.
pub fn serve(space: &Space, port: u16, name: &str) {
    let listener = space
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .expect("listen");
    let name = name.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default();
            // A client that is gone is the client's business.
            if stream.write_all(format!("{name} {peer}").as_bytes()).is_err() {
                continue;
            }
        }
    });
}

/// What a server said.
pub fn ask(space: &Space, to: Ipv4Addr, port: u16) -> std::io::Result<String> {
    space.run(|| {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(IpAddr::V4(to), port), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    })
}

/// The same from a port of its own, which a connection that was closed may still have.
pub fn ask_from(space: &Space, port: u16, to: Ipv4Addr, to_port: u16) -> std::io::Result<String> {
    space.run(|| {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(3))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(3))?;
        bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
        let address = SockaddrIn::from(SocketAddrV4::new(to, to_port));
        connect(socket.as_raw_fd(), &address)?;
        let mut said = String::new();
        TcpStream::from(socket).read_to_string(&mut said)?;
        Ok(said)
    })
}

/// Does an echo request come back within a second?
pub fn ping(space: &Space, to: Ipv4Addr) -> bool {
    space.run(|| {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Icmp,
        );
        let socket = UdpSocket::from(socket.expect("raw socket"));
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("timeout");
        // Type 8, checksum, identifier 0x1234, sequence 1.
        socket
            .send_to(&[8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1], (to, 0))
            .expect("send");
        let mut buffer = [0; 128];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            if length >= 28
                && buffer[20] == 0
                && buffer[24..26] == [0x12, 0x34]
                && peer.ip() == IpAddr::V4(to)
            {
                return true;
            }
        }
        false
    })
}

pub fn refused_at_once(space: &Space, to: Ipv4Addr, port: u16) {
    let begin = Datapath::now().expect("a clock");
    let error = ask(space, to, port).expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let took = Datapath::now().expect("a clock") - begin;
    assert!(took < Duration::from_millis(500), "{took:?}");
}

/// Sends a megabyte to a server that counts, and expects the count back.
pub fn push(from: &Space, to: Ipv4Addr, port: u16) -> std::io::Result<()> {
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(IpAddr::V4(to), port), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&vec![0x5a; 1 << 20])?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        assert_eq!(said, (1 << 20).to_string());
        Ok(())
    })
}

/// A server that says how many good bytes it got.
pub fn count(space: &Space, port: u16) {
    let listener = space
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .expect("listen");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut bytes = Vec::new();
            let good = match stream.read_to_end(&mut bytes) {
                Ok(_) => bytes.iter().filter(|b| **b == 0x5a).count(),
                Err(_) => 0,
            };
            if stream.write_all(good.to_string().as_bytes()).is_err() {
                continue;
            }
        }
    });
}

pub fn set_dont_fragment(socket: &UdpSocket) {
    let value: libc::c_int = libc::IP_PMTUDISC_DO;
    // SAFETY: setsockopt reads one int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
}
