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

/// Answers each datagram with what `who` says of its sender, until the process ends.
pub fn answer(socket: &UdpSocket, who: impl Fn(SocketAddr) -> String) -> Result<(), String> {
    setsockopt(socket, sockopt::Ipv4PacketInfo, &true).map_err(|error| format!("IP_PKTINFO: {error}"))?;
    loop {
        match receive(socket) {
            Ok(Some((client, asked))) => {
                if let Err(error) = send(
                    socket,
                    who(SocketAddr::V4(client.into())).as_bytes(),
                    client,
                    asked,
                ) {
                    eprintln!("answer to {client}: {error}");
                }
            }
            Ok(None) => {}
            Err(error) => eprintln!("receive: {error}"),
        }
    }
}

/// The sender, and the address it asked; the text does not matter.
fn receive(socket: &UdpSocket) -> nix::Result<Option<(SockaddrIn, in_pktinfo)>> {
    let mut bytes = [0; 2048];
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let mut control = cmsg_space!(in_pktinfo);
    let flags = MsgFlags::empty();
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut buffers, Some(&mut control), flags)?;
    let asked = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4PacketInfo(asked) => Some(asked),
        _ => None,
    });
    Ok(message.address.zip(asked))
}

fn send(socket: &UdpSocket, text: &[u8], client: SockaddrIn, mut asked: in_pktinfo) -> nix::Result<()> {
    // The route decides about the interface.
    asked.ipi_ifindex = 0;
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(text)],
        &[ControlMessage::Ipv4PacketInfo(&asked)],
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
        let server = UdpSocket::bind("0.0.0.0:0").unwrap();
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
