//! Allocation of subnets, addresses, VNIs and published ports. Nothing is remembered here: what is in use is read from
//! the state once a command, so that two replicas cannot differ.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::ingress::{bare, scope_of};
use super::state::*;
use crate::model::*;

/// The first VNI of a user's network, the ingress network's. Numbers below carry the mesh.
pub const FIRST_VNI: u32 = 4096;
/// VNIs have 24 bits (RFC 7348).
const LAST_VNI: u32 = (1 << 24) - 1;
/// Where published ports come from that the user left open.
const DYNAMIC_PORTS: std::ops::RangeInclusive<u32> = 30000..=32767;
/// Where subnets come from, unless the swarm was told otherwise at its init.
pub const DEFAULT_POOL: &str = "10.0.0.0/8";

/// The next VNI after the last one given out that no network has.
pub fn next_vni(state: &ClusterState) -> Option<u32> {
    let used: BTreeSet<u32> = state.networks.values().map(|n| n.vni).collect();
    let after = state.last_vni.max(FIRST_VNI - 1) + 1;
    (after..=LAST_VNI)
        .chain(FIRST_VNI..after.min(LAST_VNI))
        .find(|vni| !used.contains(vni))
}

/// Subnets of all networks, with the network's name.
pub fn subnets(state: &ClusterState) -> Vec<(Ipv4Net, &str)> {
    let of = |network: &'_ Network| -> Vec<Ipv4Net> {
        network
            .ipam
            .iter()
            .filter_map(|c| c.subnet.parse().ok())
            .collect()
    };
    state
        .networks
        .values()
        .flat_map(|n| of(n).into_iter().map(|s| (s, n.spec.annotations.name.as_str())))
        .collect()
}

/// Whether two prefixes have an address in common.
pub fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

/// The swarm's ingress addresses: clients could not reach one in a subnet of ours.
pub fn ingress(state: &ClusterState) -> impl Iterator<Item = Ipv4Addr> {
    let addresses = state.ingress_addresses.values();
    addresses.filter_map(|a| match bare(&a.spec.address) {
        Some(IpAddr::V4(address)) => Some(address),
        _ => None,
    })
}

/// The addresses of nodes: a subnet that holds one would cut the node off from its peers.
pub fn underlay(state: &ClusterState) -> impl Iterator<Item = (Ipv4Addr, &str)> {
    state.nodes.values().flat_map(|n| {
        [&n.address, &n.data_path_address]
            .into_iter()
            .filter_map(|a| a.parse().ok())
            .map(|a| (a, n.id.as_str()))
    })
}

/// The first subnet of the pools that overlaps neither a network nor a node's or an ingress address. Subnets of networks that were
/// just removed come last.
pub fn next_subnet(state: &ClusterState, now: Timestamp) -> Option<Ipv4Net> {
    let cluster = state.cluster.as_ref();
    let pools: Vec<&str> = match cluster.map(|c| &c.default_address_pools) {
        Some(pools) if !pools.is_empty() => pools.iter().map(String::as_str).collect(),
        _ => vec![DEFAULT_POOL],
    };
    let size = match cluster.map_or(0, |c| c.subnet_size) {
        0 => 24,
        size => u8::try_from(size).unwrap_or(24),
    };
    let mut avoid: Vec<Ipv4Net> = subnets(state).into_iter().map(|(s, _)| s).collect();
    avoid.extend(
        underlay(state)
            .map(|(a, _)| a)
            .chain(ingress(state))
            .map(Ipv4Net::from),
    );
    let resting: Vec<Ipv4Net> = state
        .resting
        .iter()
        .filter(|((network, _), until)| network.is_empty() && **until > now)
        .filter_map(|((_, subnet), _)| subnet.parse().ok())
        .collect();
    let with_resting: Vec<Ipv4Net> = avoid.iter().chain(&resting).copied().collect();
    first_gap(&pools, size, &with_resting).or_else(|| first_gap(&pools, size, &avoid))
}

/// The first prefix of the given length in the pools that overlaps none of `avoid`. Jumps over what it meets, so the
/// cost follows the number of networks and not the size of a pool.
fn first_gap(pools: &[&str], prefix_len: u8, avoid: &[Ipv4Net]) -> Option<Ipv4Net> {
    for pool in pools {
        let Ok(pool) = pool.parse::<Ipv4Net>() else {
            continue;
        };
        let step = 1u64 << (32 - prefix_len.min(32));
        let end = u64::from(u32::from(pool.broadcast())) + 1;
        let mut at = u64::from(u32::from(pool.network()));
        while at + step <= end {
            let start = u32::try_from(at).ok()?;
            let candidate = Ipv4Net::new(Ipv4Addr::from(start), prefix_len).ok()?;
            match avoid.iter().find(|other| overlap(&candidate, other)) {
                None => return Some(candidate),
                Some(other) => {
                    let past = u64::from(u32::from(other.broadcast())) + 1;
                    at = past.div_ceil(step) * step;
                }
            }
        }
    }
    None
}

/// Published ports that other services have and this one cannot, as `(protocol, port)`: those that answer on the same
/// addresses, and every host port.
pub fn used_ports(state: &ClusterState, own: &Service) -> BTreeSet<(i32, u32)> {
    let scope = scope_of(own);
    let others = state.services.values().filter(|s| s.id != own.id);
    let taken = |service: &'_ Service| {
        let same = scope_of(service) == scope;
        let taken =
            move |p: &&PortConfig| p.published_port != 0 && (same || p.publish_mode() == PublishMode::Host);
        let ports = service.ports.iter().filter(taken);
        ports.map(|p| (p.protocol, p.published_port)).collect::<Vec<_>>()
    };
    others.flat_map(|s| taken(s)).collect()
}

/// A dynamic port that is not in `used`, which it joins.
pub fn take_port(used: &mut BTreeSet<(i32, u32)>, protocol: i32) -> Option<u32> {
    DYNAMIC_PORTS
        .into_iter()
        .find(|port| used.insert((protocol, *port)))
}

/// Why a wished address cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// It is in no subnet of the network, or is the network's or broadcast address.
    Outside,
    /// Somebody has it, or had it just now.
    InUse,
}

/// The addresses in use, for one command.
pub struct AddressBook {
    used: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    /// Where the search goes on: addresses below are known to be used. Nothing is freed while the book is open.
    cursor: BTreeMap<(String, usize), u32>,
}

impl AddressBook {
    pub fn new(state: &ClusterState, now: Timestamp) -> AddressBook {
        let mut book = AddressBook {
            used: BTreeMap::new(),
            cursor: BTreeMap::new(),
        };
        for network in state.networks.values() {
            for config in &network.ipam {
                book.mark(&network.id, &config.gateway);
            }
        }
        for service in state.services.values() {
            for vip in &service.vips {
                book.mark(&vip.network_id, &vip.address);
            }
        }
        for task in state.tasks.values().filter(|t| holds_addresses(t)) {
            for attachment in &task.networks {
                for address in &attachment.addresses {
                    book.mark(&attachment.network_id, address);
                }
            }
        }
        for attachment in state.attachments.values() {
            for address in &attachment.network.addresses {
                book.mark(&attachment.network.network_id, address);
            }
        }
        for ((network, address), until) in &state.resting {
            if *until > now && !network.is_empty() {
                book.mark(network, address);
            }
        }
        book
    }

    fn mark(&mut self, network_id: &str, cidr: &str) {
        let text = cidr.split('/').next().unwrap_or(cidr);
        if let Ok(address) = text.parse() {
            self.used
                .entry(network_id.to_string())
                .or_default()
                .insert(address);
        }
    }

    /// The lowest free address of the network.
    pub fn take(&mut self, network: &Network) -> Option<String> {
        for (nth, config) in network.ipam.iter().enumerate() {
            let Ok(subnet) = config.subnet.parse::<Ipv4Net>() else {
                continue;
            };
            let pool = config.range.parse::<Ipv4Net>().unwrap_or(subnet);
            let key = (network.id.clone(), nth);
            let start = *self.cursor.get(&key).unwrap_or(&u32::from(pool.network()));
            let used = self.used.entry(network.id.clone()).or_default();
            let found = (start..=u32::from(pool.broadcast()))
                .map(Ipv4Addr::from)
                .find(|address| is_host(&subnet, *address) && !used.contains(address));
            if let Some(address) = found {
                used.insert(address);
                self.cursor.insert(key, u32::from(address));
                return Some(format!("{address}/{}", subnet.prefix_len()));
            }
            self.cursor.insert(key, u32::MAX);
        }
        None
    }

    /// The address asked for.
    pub fn take_wished(&mut self, network: &Network, address: Ipv4Addr) -> Result<String, Unavailable> {
        let subnet = network
            .ipam
            .iter()
            .filter_map(|c| c.subnet.parse::<Ipv4Net>().ok())
            .find(|s| is_host(s, address))
            .ok_or(Unavailable::Outside)?;
        let used = self.used.entry(network.id.clone()).or_default();
        if used.insert(address) {
            Ok(format!("{address}/{}", subnet.prefix_len()))
        } else {
            Err(Unavailable::InUse)
        }
    }

    /// Whether each of the networks has a free address; takes none.
    pub fn has_room<'a>(&mut self, mut networks: impl Iterator<Item = &'a Network>) -> bool {
        networks.all(|network| {
            let Some(cidr) = self.take(network) else {
                return false;
            };
            let text = cidr.split('/').next().unwrap_or_default();
            if let (Ok(address), Some(used)) = (text.parse::<Ipv4Addr>(), self.used.get_mut(&network.id)) {
                used.remove(&address);
            }
            true
        })
    }
}

/// Whether the address can be given to an endpoint of the subnet.
fn is_host(subnet: &Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.contains(&address)
        && (subnet.prefix_len() >= 31 || (address != subnet.network() && address != subnet.broadcast()))
}
