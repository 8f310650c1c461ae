//! Knocks at silent peers: a byte to the port of their probes, which an agent ignores and a kernel without one refuses. A
//! socket of its own, because pending refusals fail the next call on it, whomever that is for.

use std::io::{ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use tracing::debug;

/// More wait for the next time.
const BATCH: usize = 64;

pub struct Knocker {
    socket: UdpSocket,
}

impl Knocker {
    pub fn bind(address: IpAddr) -> std::io::Result<Self> {
        let socket = UdpSocket::bind((address, 0))?;
        socket.set_nonblocking(true)?;
        if address.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        }
        Ok(Self { socket })
    }

    pub fn knock(&self, address: SocketAddr) {
        let mut sent = self.socket.send_to(&[0], address);
        if sent.is_err() {
            // It told of an earlier one.
            sent = self.socket.send_to(&[0], address);
        }
        if let Err(error) = sent {
            debug!(%address, %error, "knock at a silent peer");
        }
    }

    /// Who has refused since the last call.
    pub fn refused(&self) -> Vec<SocketAddr> {
        let mut refused = Vec::new();
        for _ in 0..BATCH {
            let mut byte = [0];
            let mut iov = [IoSliceMut::new(&mut byte)];
            let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in);
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let received =
                recvmsg::<SockaddrIn>(self.socket.as_raw_fd(), &mut iov, Some(&mut control), flags);
            let message = match received {
                Ok(message) => message,
                Err(errno) => {
                    let error = std::io::Error::from(errno);
                    if error.kind() != ErrorKind::WouldBlock {
                        debug!(%error, "read who refused a knock");
                    }
                    break;
                }
            };
            // The name is where the knock went to.
            let Some(to) = message.address else { continue };
            let is_refusal = message.cmsgs().is_ok_and(|mut all| {
                all.any(|one| {
                    matches!(one, ControlMessageOwned::Ipv4RecvErr(error, _)
                        if error.ee_errno == libc::ECONNREFUSED as u32)
                })
            });
            if is_refusal {
                refused.push(SocketAddrV4::new(to.ip(), to.port()).into());
            }
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_kernel_refuses_for_an_agent_that_is_away() {
        let knocker = Knocker::bind([127, 0, 0, 1].into()).unwrap();
        let agent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let here = agent.local_addr().unwrap();
        knocker.knock(here);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(knocker.refused(), []);
        drop(agent);
        knocker.knock(here);
        std::thread::sleep(Duration::from_millis(50));
        knocker.knock(here);
        assert!(knocker.refused().contains(&here));
    }
}
