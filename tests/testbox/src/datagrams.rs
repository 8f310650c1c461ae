//! The test server's UDP half: answers from the address that was asked, as a server on a machine with several
//! addresses must (a socket bound to none answers from the interface's first one otherwise).

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::libc::in_pktinfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};

/// A socket that [`answer`] can serve.
pub fn bind(port: u16) -> Result<UdpSocket, String> {
    let socket = UdpSocket::bind(("0.0.0.0", port)).map_err(|error| format!("bind UDP {port}: {error}"))?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).map_err(|error| format!("IP_PKTINFO: {error}"))?;
    Ok(socket)
}

/// Answers each datagram with what `who` says of its sender, until the process ends.
pub fn answer(socket: &UdpSocket, who: impl Fn(SocketAddr) -> String) {
    loop {
        match receive(socket) {
            Ok((Some(client), asked)) => {
                if let Err(error) = send(
                    socket,
                    who(SocketAddr::V4(client.into())).as_bytes(),
                    client,
                    asked,
                ) {
                    eprintln!("answer to {client}: {error}");
                }
            }
            // UDP always names the sender.
            Ok((None, _)) => {}
            Err(error) => eprintln!("receive: {error}"),
        }
    }
}

/// The sender, and the address it asked, if the socket tells it; the text does not matter.
fn receive(socket: &UdpSocket) -> nix::Result<(Option<SockaddrIn>, Option<in_pktinfo>)> {
    let mut bytes = [0; 2048];
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let mut control = cmsg_space!(in_pktinfo);
    let flags = MsgFlags::empty();
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut buffers, Some(&mut control), flags)?;
    let asked = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4PacketInfo(asked) => Some(asked),
        _ => None,
    });
    Ok((message.address, asked))
}

fn send(socket: &UdpSocket, text: &[u8], client: SockaddrIn, asked: Option<in_pktinfo>) -> nix::Result<()> {
    // The route decides about the interface.
    let from = asked.map(|asked| in_pktinfo {
        ipi_ifindex: 0,
        ..asked
    });
    let from: Vec<ControlMessage<'_>> = from.iter().map(ControlMessage::Ipv4PacketInfo).collect();
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(text)],
        &from,
        MsgFlags::empty(),
        Some(&client),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_comes_from_the_address_that_was_asked() {
        let server = bind(0).unwrap();
        let port = server.local_addr().unwrap().port();
        std::thread::spawn(move || answer(&server, |client| client.to_string()));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client
            .set_read_timeout(Some(std::time::Duration::from_secs(5)))
            .unwrap();
        // A connected socket takes nothing from another address.
        client.connect(("127.0.0.9", port)).unwrap();
        client.send(b"who?").unwrap();
        let mut buffer = [0; 64];
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(
            &buffer[..length],
            client.local_addr().unwrap().to_string().as_bytes()
        );
    }
}
