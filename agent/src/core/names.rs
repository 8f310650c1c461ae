//! From the node's items to the table that its DNS answers from.
//!
//! Names are Swarm's (moby daemon/libnetwork `addServiceBinding`): a service and its aliases resolve to the
//! VIP, or to the tasks where there is none (dnsrr); `tasks.NAME` resolves to the tasks; a container has its own
//! names. The ingress network has no names: services do not meet through it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use skep_control::model::{
    EndpointItem, ItemKind, Items, NetworkAttachment, NetworkItem, ServiceItem, TaskState,
};
use skep_dns::{Client, Table, Zone};

/// The table for a node with these items. `outward` are addresses of local containers that are on no
/// overlay at all: they are clients too, for whom everything is forwarded.
///
/// An address that cannot be read is left out; managers validate what they hand out.
pub fn table(items: &Items, outward: &[IpAddr]) -> Table {
    let sorted = Sorted::new(items);
    let mut table = Table::default();
    for network in sorted.networks.values().filter(|network| !network.ingress) {
        table
            .networks
            .insert(network.network_id.clone(), sorted.zone(network));
    }
    table.clients = sorted.clients();
    for address in outward {
        table.clients.insert(*address, Client::default());
    }
    table
}

/// The items by kind, as far as DNS looks at them.
#[derive(Default)]
struct Sorted<'a> {
    networks: BTreeMap<&'a str, &'a NetworkItem>,
    services: Vec<&'a ServiceItem>,
    /// Without those that are draining: a withdrawn task is in no name.
    endpoints: Vec<&'a EndpointItem>,
    /// What each local container is attached to.
    containers: BTreeMap<String, Vec<&'a NetworkAttachment>>,
}

impl<'a> Sorted<'a> {
    fn new(items: &'a Items) -> Self {
        let mut sorted = Self::default();
        for kind in items.values().filter_map(|item| item.kind.as_ref()) {
            match kind {
                ItemKind::Network(network) => {
                    sorted.networks.insert(&network.network_id, network);
                }
                ItemKind::Service(service) => sorted.services.push(service),
                ItemKind::Endpoint(endpoint) if !endpoint.draining => sorted.endpoints.push(endpoint),
                // A task asks from its start to its end, hence its item and not its endpoint. An ended one
                // must not speak for the next holder of its address.
                ItemKind::Task(task) if task.observed_state <= TaskState::Running as i32 => {
                    sorted
                        .containers
                        .insert(format!("task/{}", task.id), task.networks.iter().collect());
                }
                ItemKind::Attachment(attachment) => {
                    // A plain container has one attachment per network; until it is known which container
                    // it became, each stands alone.
                    let container = match attachment.container_id.as_str() {
                        "" => format!("attachment/{}", attachment.id),
                        id => format!("container/{id}"),
                    };
                    sorted
                        .containers
                        .entry(container)
                        .or_default()
                        .push(&attachment.network);
                }
                _ => {}
            }
        }
        sorted
    }

    fn zone(&self, network: &NetworkItem) -> Zone {
        let mut zone = Zone {
            name: network.name.clone(),
            names: BTreeMap::new(),
            reverse: BTreeMap::new(),
        };
        for service in self
            .services
            .iter()
            .filter(|service| service.network_id == network.network_id)
        {
            self.add_service(&mut zone, service);
        }
        for endpoint in self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.network_id == network.network_id)
        {
            let Some(address) = parse(&endpoint.address) else {
                continue;
            };
            for name in &endpoint.names {
                add(&mut zone, name, address);
            }
            if let Some(name) = endpoint.names.first() {
                zone.reverse.insert(address, name.clone());
            }
        }
        zone
    }

    fn add_service(&self, zone: &mut Zone, service: &ServiceItem) {
        let tasks: Vec<IpAddr> = self
            .endpoints
            .iter()
            .filter(|endpoint| {
                endpoint.network_id == service.network_id && endpoint.service_id == service.service_id
            })
            .filter_map(|endpoint| parse(&endpoint.address))
            .collect();
        let vip = parse(&service.vip);
        let itself = vip.map_or_else(|| tasks.clone(), |vip| vec![vip]);
        for name in std::iter::once(&service.name).chain(&service.aliases) {
            add_all(zone, name, &itself);
            add_all(zone, &format!("tasks.{name}"), &tasks);
        }
        if let Some(vip) = vip {
            zone.reverse.insert(vip, service.name.clone());
        }
    }

    fn clients(&self) -> BTreeMap<IpAddr, Client> {
        let mut clients = BTreeMap::new();
        for attachments in self.containers.values() {
            let networks = || {
                attachments
                    .iter()
                    .filter_map(|attached| self.networks.get(attached.network_id.as_str()))
            };
            let client = Client {
                networks: networks()
                    .filter(|network| !network.ingress)
                    .map(|network| network.network_id.clone())
                    .collect(),
                // Also true when none of its networks is known yet: when in doubt nothing leaks.
                internal_only: networks().all(|network| network.internal),
            };
            // The question leaves by whichever network has the default route, ingress included.
            for address in attachments.iter().flat_map(|attached| &attached.addresses) {
                if let Some(address) = parse(address) {
                    clients.insert(address, client.clone());
                }
            }
        }
        clients
    }
}

/// Makes a name known, with or without addresses: the name of a service without tasks is still ours and
/// is not asked for upstream.
fn add_all(zone: &mut Zone, name: &str, addresses: &[IpAddr]) {
    if name.is_empty() {
        return;
    }
    let known = zone.names.entry(name.to_ascii_lowercase()).or_default();
    for address in addresses {
        if !known.contains(address) {
            known.push(*address);
        }
    }
}

fn add(zone: &mut Zone, name: &str, address: IpAddr) {
    add_all(zone, name, &[address]);
}

/// The address of a text with or without prefix length.
fn parse(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests;
