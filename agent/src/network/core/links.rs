//! What the interfaces of the node mean to the data plane.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use skep_ebpf_loader::UplinkEntry;

/// Group number of the host sides of containers' veths ("sk"), for nftables.
pub const ENDPOINT_GROUP: u32 = 0x736b;
/// First letters of all our interfaces, for iptables.
pub const NAME_PREFIX: &str = "skep";
/// Index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;
/// The flow-based VXLAN device.
pub const VXLAN_NAME: &str = "skep-vx";
/// The node's own veth pair: its stack's end,
pub const HOST_NAME: &str = "skep0";
/// and the end that the data plane's program sits on.
pub const HOST_PEER_NAME: &str = "skep1";

/// One interface, its addresses included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub up: bool,
    /// Up and with carrier, as far as the device can tell.
    pub running: bool,
    /// Bytes of its hardware address; empty if it has none.
    pub mac: Vec<u8>,
    /// Set for VXLAN devices.
    pub vxlan: Option<Vxlan>,
    /// The node's own: addresses of the swarm that it holds for the moment are left out.
    pub addresses: Vec<IpAddr>,
    /// Of the same addresses.
    pub subnets: Vec<IpNet>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan {
    pub port: u16,
    /// Flow-based, that is: `external`.
    pub external: bool,
}

/// The interfaces of a node at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub links: Vec<Link>,
    /// Interfaces that a default route leads out of.
    pub default_routes: BTreeSet<u32>,
    /// By interface: the router of its default route.
    pub routers: BTreeMap<u32, Ipv4Addr>,
}

impl Snapshot {
    pub fn by_name(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// Where the data path's address lives.
    pub fn by_address(&self, address: IpAddr) -> Option<&Link> {
        self.links.iter().find(|link| link.addresses.contains(&address))
    }
}

/// Whether the node's own interfaces stand as they should.
pub fn stand(snapshot: &Snapshot, indexes: [u32; 3], mtu: u32, resolver: Ipv4Addr) -> bool {
    let is_right = |name: &str, index: u32| {
        snapshot
            .by_name(name)
            .is_some_and(|link| link.index == index && link.mtu == mtu && link.up)
    };
    let names = [VXLAN_NAME, HOST_NAME, HOST_PEER_NAME];
    let host = snapshot.by_name(HOST_NAME);
    names
        .into_iter()
        .zip(indexes)
        .all(|(name, index)| is_right(name, index))
        && host.is_some_and(|host| host.addresses.contains(&IpAddr::V4(resolver)))
}

/// Interfaces that outside clients come in through (those with the data path's address or a default route), each with
/// the addresses on which published ports answer: replies from an address leave by the interface that has it.
/// Addresses on the loopback (announced by a router, say) go with the first of them.
pub fn uplinks(snapshot: &Snapshot, data_path_address: IpAddr) -> Vec<UplinkEntry> {
    let theirs = snapshot.links.iter().filter(|link| {
        !link.name.starts_with(NAME_PREFIX)
            && (link.addresses.contains(&data_path_address) || snapshot.default_routes.contains(&link.index))
    });
    let mut uplinks: Vec<UplinkEntry> = theirs
        .map(|link| UplinkEntry {
            ifindex: link.index,
            addresses: link.addresses.iter().copied().filter(is_reachable).collect(),
        })
        .collect();
    let loopback = snapshot.links.iter().filter(|link| link.index == LOOPBACK);
    let anycast = loopback
        .flat_map(|link| &link.addresses)
        .copied()
        .filter(is_reachable);
    if let Some(first) = uplinks.first_mut() {
        first.addresses.extend(anycast);
    }
    uplinks
}

/// The node's further addresses: on bridges, and on interfaces that no client comes in through.
pub fn other_addresses(snapshot: &Snapshot, uplinks: &[UplinkEntry]) -> Vec<IpAddr> {
    let links = snapshot
        .links
        .iter()
        .filter(|link| !link.name.starts_with(NAME_PREFIX));
    let addresses = links.flat_map(|link| link.addresses.iter().copied());
    addresses
        .filter(|address| is_reachable(address) && !uplinks.iter().any(|u| u.addresses.contains(address)))
        .collect()
}

fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !address.is_loopback() && !address.is_link_local() && *address != Ipv4Addr::UNSPECIFIED
        }
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

/// Largest IP packet a container may send, in bytes: the underlay's less the outer headers (IP, UDP 8, VXLAN 8,
/// inner Ethernet 14: RFC 7348).
pub const fn overlay_mtu(underlay_mtu: u32, underlay: IpAddr) -> u32 {
    let overhead = match underlay {
        IpAddr::V4(_) => 50,
        IpAddr::V6(_) => 70,
    };
    underlay_mtu.saturating_sub(overhead)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, addresses: &[[u8; 4]]) -> Link {
        Link {
            index,
            name: name.to_string(),
            mtu: 1500,
            up: true,
            running: true,
            mac: Vec::new(),
            vxlan: None,
            addresses: addresses.iter().map(|&octets| IpAddr::from(octets)).collect(),
            subnets: Vec::new(),
        }
    }

    #[test]
    fn uplinks_and_addresses() {
        let snapshot = Snapshot {
            links: vec![
                link(1, "lo", &[[127, 0, 0, 1], [203, 0, 113, 9]]),
                link(2, "eth0", &[[192, 0, 2, 1]]),
                link(3, "eth1", &[[198, 51, 100, 1]]),
                link(4, "docker0", &[[172, 17, 0, 1]]),
                link(5, "skep0", &[[169, 254, 1, 53]]),
            ],
            default_routes: BTreeSet::from([3]),
            routers: BTreeMap::new(),
        };
        let addresses = |octets: &[[u8; 4]]| octets.iter().map(|&octets| IpAddr::from(octets)).collect();
        let found = uplinks(&snapshot, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(other_addresses(&snapshot, &found), addresses(&[[172, 17, 0, 1]]));
        let expected = [
            UplinkEntry {
                ifindex: 2,
                addresses: addresses(&[[192, 0, 2, 1], [203, 0, 113, 9]]),
            },
            UplinkEntry {
                ifindex: 3,
                addresses: addresses(&[[198, 51, 100, 1]]),
            },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn mtu_leaves_room_for_the_outer_headers() {
        assert_eq!(overlay_mtu(1500, IpAddr::from([192, 0, 2, 1])), 1450);
        assert_eq!(overlay_mtu(1500, "2001:db8::1".parse().unwrap()), 1430);
    }
}
