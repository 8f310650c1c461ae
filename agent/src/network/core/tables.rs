//! From items, liveness and local endpoints to the tables of the data plane.
//!
//! Invariants: a VIP stands in the tables even when nobody is behind it (it must refuse at once); a backend is a
//! task that runs, is not draining, and whose node answers; a backend of this node is plugged in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ring::digest;
use skep_control::model::{
    EndpointItem, Item, ItemKind, Items, NetworkItem, PortConfig, PublishMode, PublishedItem, ServiceItem,
};
use skep_ebpf_loader::{
    EndpointEntry, IngressMode, LocalEndpoint, NetworkEntry, NodeEntry, PublishedEntry, PublishedTask,
    ServiceEntry, Tables, UplinkEntry,
};

use crate::ingress::core::place::{self, Places};
use crate::network::core::ledger::{Local, parse_address};
use crate::network::core::ports::{Port, protocol_of};

/// Everything the tables are made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub items: &'a Items,
    /// By node index: `false` while probes miss it. Nodes that are absent count as alive.
    pub alive: &'a BTreeMap<u32, bool>,
    /// By Engine endpoint id.
    pub locals: &'a BTreeMap<String, Local>,
    pub uplinks: &'a [UplinkEntry],
    /// Ports that another process of this node holds: not ours to answer here.
    pub held: &'a BTreeSet<Port>,
    /// By node: hashes of its tasks that it says have ended, whatever the items say.
    pub withdrawn: &'a BTreeMap<u32, BTreeSet<u64>>,
    /// Where ingress addresses belong on this node.
    pub places: &'a Places,
    pub self_index: u32,
    /// Largest IP packet a container may send, in bytes.
    pub mtu: u32,
}

impl Inputs<'_> {
    fn is_alive(&self, node: u32) -> bool {
        node == self.self_index || self.alive.get(&node).copied().unwrap_or(true)
    }

    fn is_withdrawn(&self, node: u32, task_id: &str) -> bool {
        let theirs = self.withdrawn.get(&node);
        theirs.is_some_and(|theirs| theirs.contains(&task_hash(task_id)))
    }

    /// Whether a connection to the endpoint could be answered, as far as this node knows.
    fn is_reachable(&self, endpoint: &EndpointItem, address: IpAddr) -> bool {
        if self.is_withdrawn(endpoint.node_index, &endpoint.id) {
            return false;
        }
        if endpoint.node_index != self.self_index {
            return self.is_alive(endpoint.node_index);
        }
        self.locals
            .values()
            .any(|local| local.network_id == endpoint.network_id && IpAddr::V4(local.address) == address)
    }
}

/// The tables, and what of the items could not be put into them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Built {
    pub tables: Tables,
    pub problems: Vec<String>,
}

/// Makes the tables of this node.
pub fn build(inputs: &Inputs<'_>) -> Built {
    let mut built = Built::default();
    let networks = networks(inputs.items);
    for network in networks.values() {
        match network_entry(network, inputs.mtu) {
            Ok(entry) => built.tables.networks.push(entry),
            Err(problem) => built.problems.push(problem),
        }
    }
    built.tables.uplinks = inputs.uplinks.to_vec();
    built.tables.ingress = place::entries(inputs.places);
    built.tables.nodes = node_entries(inputs);
    built.tables.endpoints = endpoint_entries(inputs, &networks);
    built.tables.services = service_entries(inputs, &networks);
    for item in inputs.items.values() {
        if let Some(ItemKind::Published(published)) = &item.kind {
            publish(inputs, published, &mut built);
        }
    }
    built
}

/// The items as names should see them: endpoints that nobody can reach now count as withdrawn.
pub fn visible(inputs: &Inputs<'_>) -> Items {
    let mut items = inputs.items.clone();
    for item in items.values_mut() {
        let Some(ItemKind::Endpoint(endpoint)) = &mut item.kind else {
            continue;
        };
        let address = parse_address(&endpoint.address);
        let reachable = address.is_some_and(|address| inputs.is_reachable(endpoint, address));
        endpoint.draining |= !reachable;
    }
    items
}

/// First 8 bytes, big-endian, of SHA-256 (FIPS 180-4) of the task's id. Every node must agree on it for ever: it
/// decides the rows of published ports.
pub fn task_hash(task_id: &str) -> u64 {
    let digest = digest::digest(&digest::SHA256, task_id.as_bytes());
    digest
        .as_ref()
        .iter()
        .take(8)
        .fold(0, |hash, &byte| (hash << 8) | u64::from(byte))
}

/// Networks by id.
pub fn networks(items: &Items) -> BTreeMap<&str, &NetworkItem> {
    let networks = items.values().filter_map(|Item { kind }| match kind {
        Some(ItemKind::Network(network)) => Some((network.network_id.as_str(), network)),
        _ => None,
    });
    networks.collect()
}

fn network_entry(network: &NetworkItem, mtu: u32) -> Result<NetworkEntry, String> {
    let ipam = network
        .ipam
        .first()
        .ok_or_else(|| format!("network {} has no subnet", network.name))?;
    let subnet = ipam
        .subnet
        .parse()
        .map_err(|_| format!("network {}: subnet {:?} is not valid", network.name, ipam.subnet))?;
    let gateway = parse_address(&ipam.gateway).ok_or_else(|| {
        format!(
            "network {}: gateway {:?} is not valid",
            network.name, ipam.gateway
        )
    })?;
    Ok(NetworkEntry {
        vni: network.vni,
        subnet,
        gateway,
        mtu,
        internal: network.internal,
        ingress: network.ingress,
    })
}

fn node_entries(inputs: &Inputs<'_>) -> Vec<NodeEntry> {
    let peers = inputs.items.values().filter_map(|Item { kind }| match kind {
        Some(ItemKind::Peer(peer)) => Some(peer),
        _ => None,
    });
    let entries = peers.filter_map(|peer| {
        Some(NodeEntry {
            index: peer.index,
            underlay: parse_address(&peer.underlay)?,
        })
    });
    entries.collect()
}

fn endpoint_entries(inputs: &Inputs<'_>, networks: &BTreeMap<&str, &NetworkItem>) -> Vec<EndpointEntry> {
    // Local ones come from the driver: a task's network is complete before its process starts, and before any manager
    // knows that it runs.
    let mut entries: BTreeMap<(u32, IpAddr), EndpointEntry> = BTreeMap::new();
    for local in inputs.locals.values() {
        let address = IpAddr::V4(local.address);
        let plugged = LocalEndpoint {
            ifindex: local.ifindex,
            container: local.container,
        };
        let entry = EndpointEntry {
            vni: local.vni,
            address,
            node: inputs.self_index,
            local: Some(plugged),
        };
        entries.insert((local.vni, address), entry);
    }
    for endpoint in endpoints(inputs.items).filter(|endpoint| endpoint.node_index != inputs.self_index) {
        let network = networks.get(endpoint.network_id.as_str());
        let (Some(network), Some(address)) = (network, parse_address(&endpoint.address)) else {
            continue;
        };
        entries.entry((network.vni, address)).or_insert(EndpointEntry {
            vni: network.vni,
            address,
            node: endpoint.node_index,
            local: None,
        });
    }
    entries.into_values().collect()
}

fn service_entries(inputs: &Inputs<'_>, networks: &BTreeMap<&str, &NetworkItem>) -> Vec<ServiceEntry> {
    let services = inputs.items.values().filter_map(|Item { kind }| match kind {
        Some(ItemKind::Service(service)) => Some(service),
        _ => None,
    });
    let entries = services.filter_map(|service| {
        let vip = parse_address(&service.vip)?;
        let network = networks.get(service.network_id.as_str())?;
        Some(ServiceEntry {
            vni: network.vni,
            vip,
            backends: backends(inputs, service),
        })
    });
    entries.collect()
}

fn backends(inputs: &Inputs<'_>, service: &ServiceItem) -> Vec<IpAddr> {
    let theirs = endpoints(inputs.items).filter(|endpoint| {
        endpoint.service_id == service.service_id
            && endpoint.network_id == service.network_id
            && !endpoint.draining
    });
    let addresses = theirs.filter_map(|endpoint| {
        let address = parse_address(&endpoint.address)?;
        inputs.is_reachable(endpoint, address).then_some(address)
    });
    addresses.collect()
}

fn endpoints(items: &Items) -> impl Iterator<Item = &EndpointItem> {
    items.values().filter_map(|Item { kind }| match kind {
        Some(ItemKind::Endpoint(endpoint)) => Some(endpoint),
        _ => None,
    })
}

fn publish(inputs: &Inputs<'_>, published: &PublishedItem, built: &mut Built) {
    for port in published
        .ports
        .iter()
        .filter(|port| port.publish_mode == PublishMode::Ingress as i32)
    {
        match published_entry(inputs, published, port) {
            Ok(Some(entry)) => built.tables.published.push(entry),
            Ok(None) => {}
            Err(problem) => built.problems.push(problem),
        }
    }
}

fn published_entry(
    inputs: &Inputs<'_>,
    published: &PublishedItem,
    port: &PortConfig,
) -> Result<Option<PublishedEntry>, String> {
    let name = &published.service_name;
    let protocol = protocol_of(port.protocol).ok_or_else(|| {
        format!(
            "service {name}: port {} uses a protocol that is not supported",
            port.published_port
        )
    })?;
    let number = |port: u32| {
        let number = u16::try_from(port).ok().filter(|&number| number != 0);
        number.ok_or_else(|| format!("service {name}: {port} is no port number"))
    };
    let (published_port, target_port) = (number(port.published_port)?, number(port.target_port)?);
    let port = Port {
        protocol,
        number: published_port,
    };
    if published.ingress_address.is_empty() && inputs.held.contains(&port) {
        return Ok(None);
    }
    let rows_log2 = u8::try_from(published.rows.rows_log2)
        .map_err(|_| format!("service {name}: 2^{} rows are too many", published.rows.rows_log2))?;
    let mode = mode_of(published);
    let theirs = published.tasks.iter().filter(|task| {
        !inputs.is_withdrawn(task.node_index, &task.task_id)
            && (mode != IngressMode::Local || task.node_index == inputs.self_index)
    });
    let tasks = theirs.filter_map(|task| {
        Some(PublishedTask {
            task_hash: task_hash(&task.task_id),
            address: parse_address(&task.address)?,
            node: task.node_index,
            draining: task.draining,
        })
    });
    Ok(Some(PublishedEntry {
        protocol,
        published_port,
        target_port,
        seed: published.rows.seed,
        rows_log2,
        algorithm: published.rows.algorithm,
        ingress_vni: published.ingress_vni,
        mode,
        ingress_address: parse_address(&published.ingress_address),
        tasks: tasks.collect(),
    }))
}

fn mode_of(published: &PublishedItem) -> IngressMode {
    match published.mode() {
        skep_control::model::IngressMode::Mesh => IngressMode::Mesh,
        skep_control::model::IngressMode::Dsr => IngressMode::Dsr,
        skep_control::model::IngressMode::Local => IngressMode::Local,
    }
}

#[cfg(test)]
mod tests;
