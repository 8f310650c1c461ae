//! Sockets that are bound to the published ports. They find out who else has a port, and keep the kernel from
//! taking it as the source of a connection, whose answers would go to the service.
//!
//! They do not listen: outside packets never reach them, because the uplink's program takes those first, and what the
//! node's own sockets dial is rewritten before there is a packet. Other processes are refused by the data plane's guard on
//! bind(2), also while there is no agent; these sockets carry the mark that it lets through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use skep_ebpf_loader::{GUARD_MARK, Protocol};
use socket2::{Domain, Socket, Type};

use crate::network::core::ports::Port;

const DNS_PORT: u16 = 53;

/// The ports this process holds. Dropping it lets go of all.
#[derive(Debug, Default)]
pub struct Guards {
    sockets: BTreeMap<Port, Vec<Socket>>,
}

impl Guards {
    /// Holds exactly `ports` on this node, whose addresses are `own`; answers those that could not be had, with the reason (typically: another process has
    /// it). They are tried again with each call.
    pub fn hold(&mut self, ports: &BTreeSet<Port>, own: &[IpAddr]) -> BTreeMap<Port, std::io::Error> {
        self.sockets.retain(|port, _| ports.contains(port));
        let mut failed = BTreeMap::new();
        for &port in ports {
            if self.sockets.contains_key(&port) {
                continue;
            }
            match bind_all(port, own) {
                Ok(sockets) => {
                    self.sockets.insert(port, sockets);
                }
                Err(error) => {
                    failed.insert(port, error);
                }
            }
        }
        failed
    }
}

/// One socket for all addresses, but for the port of the node's own DNS: it is taken on the resolver's address, and
/// often on a stub resolver's on the loopback.
fn bind_all(port: Port, own: &[IpAddr]) -> std::io::Result<Vec<Socket>> {
    if port.number != DNS_PORT {
        return Ok(vec![bind(port, IpAddr::V4(Ipv4Addr::UNSPECIFIED))?]);
    }
    own.iter()
        .filter(|address| address.is_ipv4())
        .map(|&address| bind(port, address))
        .collect()
}

fn bind(port: Port, address: IpAddr) -> std::io::Result<Socket> {
    let kind = match port.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    socket.set_mark(GUARD_MARK)?;
    // Without SO_REUSEADDR: with it, a process that sets it too could still listen on the port.
    socket.bind(&SocketAddr::new(address, port.number).into())?;
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
        let wanted = BTreeSet::from([Port {
            protocol: Protocol::Tcp,
            number,
        }]);
        let mut guards = Guards::default();
        assert_eq!(guards.hold(&wanted, &[]).len(), 1);
        drop(other);
        assert!(guards.hold(&wanted, &[]).is_empty());
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_err());
        assert!(guards.hold(&BTreeSet::new(), &[]).is_empty());
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok());
    }
}
