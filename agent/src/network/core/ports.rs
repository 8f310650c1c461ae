//! The published ports of the swarm, as a node has to hold them.

use std::collections::BTreeSet;
use std::fmt;

use skep_control::model::{Item, ItemKind, Items, Protocol as ModelProtocol, PublishMode};
use skep_ebpf_loader::Protocol;

/// A port of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub protocol: Protocol,
    pub number: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, protocol_name(self.protocol))
    }
}

/// As nftables and Docker write it.
pub const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// The transport of a stored port, if the data plane carries it.
pub fn protocol_of(number: i32) -> Option<Protocol> {
    match ModelProtocol::try_from(number) {
        Ok(ModelProtocol::Tcp) => Some(Protocol::Tcp),
        Ok(ModelProtocol::Udp) => Some(Protocol::Udp),
        Ok(ModelProtocol::Sctp) | Err(_) => None,
    }
}

/// Every port that every node answers on its own addresses. Those that name an ingress address are nobody else's there alone.
pub fn published_ports(items: &Items) -> BTreeSet<Port> {
    let services = items.values().filter_map(|Item { kind }| match kind {
        Some(ItemKind::Published(published)) if published.ingress_address.is_empty() => Some(published),
        _ => None,
    });
    let ports = services
        .flat_map(|service| &service.ports)
        .filter(|port| port.publish_mode == PublishMode::Ingress as i32);
    ports
        .filter_map(|port| {
            let number = u16::try_from(port.published_port)
                .ok()
                .filter(|&number| number != 0)?;
            Some(Port {
                protocol: protocol_of(port.protocol)?,
                number,
            })
        })
        .collect()
}
