//! Sockets that are bound to the published ports, so that no process of the node takes one of them.
//!
//! They do not listen: outside packets never reach them, because the uplink's program takes those first, and the
//! node's own are translated before they are delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use skep_ebpf_loader::Protocol;
use socket2::{Domain, Socket, Type};

use crate::network::core::ports::Port;

/// The ports this process holds. Dropping it lets go of all.
#[derive(Debug, Default)]
pub struct Guards {
    sockets: BTreeMap<Port, Socket>,
}

impl Guards {
    /// Holds exactly `ports`; answers those that could not be had, with the reason (typically: another process has
    /// it). They are tried again with each call.
    pub fn hold(&mut self, ports: &BTreeSet<Port>) -> BTreeMap<Port, std::io::Error> {
        self.sockets.retain(|port, _| ports.contains(port));
        let mut failed = BTreeMap::new();
        for &port in ports {
            if self.sockets.contains_key(&port) {
                continue;
            }
            match bind(port) {
                Ok(socket) => {
                    self.sockets.insert(port, socket);
                }
                Err(error) => {
                    failed.insert(port, error);
                }
            }
        }
        failed
    }
}

fn bind(port: Port) -> std::io::Result<Socket> {
    let kind = match port.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    // Without SO_REUSEADDR: with it, a process that sets it too could still listen on the port.
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.number)).into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_held_port_is_reported_and_taken_once_free() {
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let number = other.local_addr().unwrap().port();
        let wanted = BTreeSet::from([Port { protocol: Protocol::Tcp, number }]);
        let mut guards = Guards::default();
        assert_eq!(guards.hold(&wanted).len(), 1);
        drop(other);
        assert!(guards.hold(&wanted).is_empty());
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_err());
        assert!(guards.hold(&BTreeSet::new()).is_empty());
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok());
    }
}
