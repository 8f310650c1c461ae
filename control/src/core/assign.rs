//! What a node is told: its own tasks and attachments, the networks it hosts, and what every node knows of the mesh.
//! Nothing else leaves the managers.

use std::collections::{BTreeMap, BTreeSet};

use super::state::*;
use super::{ingress, rollout, root};
use crate::model::*;

/// Tasks that left the tables and may still run, as (task id, node id, Raft index at which they left). Such a task may
/// be stopped once every node in reach has applied its sets up to that index.
pub fn withdrawn(state: &ClusterState) -> Vec<(String, String, u64)> {
    state
        .tasks
        .values()
        .filter(|t| t.withdrawn_at != 0 && !has_ended(t))
        .map(|t| (t.id.clone(), t.node_id.clone(), t.withdrawn_at))
        .collect()
}

/// All items of a node, by key. `released` holds ids of withdrawn tasks that every node has taken out of its tables.
///
/// - mesh: the swarm, all nodes, all published services with the tasks that serve them, all ingress addresses;
/// - network: for each network that a task (up to its end) or an attachment of the node is on, the network with its
///   services and endpoints. The ingress network has neither: nothing is found through it, and its tasks stand in the
///   published services;
/// - own: tasks that are assigned to the node and have not ended, attachments of its containers.
///
/// Empty for a node that does not exist.
pub fn assign(state: &ClusterState, node_id: &str, released: &BTreeSet<String>) -> Items {
    let mut items = Items::new();
    let (Some(node), Some(cluster)) = (state.nodes.get(node_id), &state.cluster) else {
        return items;
    };
    let hosted = hosted_networks(state, node_id);
    let mut put = |kind: ItemKind| {
        items.insert(item_key(&kind), Item { kind: Some(kind) });
    };
    put(ItemKind::Swarm(swarm(state, cluster, node)));
    for peer in state.nodes.values() {
        put(ItemKind::Peer(self::peer(peer)));
    }
    published(state)
        .into_iter()
        .map(ItemKind::Published)
        .for_each(&mut put);
    ingress_addresses(state)
        .into_iter()
        .map(ItemKind::IngressAddress)
        .for_each(&mut put);
    for network in hosted.values() {
        put(ItemKind::Network(network_item(network)));
    }
    services(state, &hosted)
        .into_iter()
        .map(ItemKind::Service)
        .for_each(&mut put);
    endpoints(state, &hosted)
        .into_iter()
        .map(ItemKind::Endpoint)
        .for_each(&mut put);
    for task in state
        .tasks
        .values()
        .filter(|t| t.node_id == node_id && is_assigned(t) && !has_ended(t))
    {
        put(ItemKind::Task(self::task(state, task, node, released)));
    }
    for attachment in state.attachments.values().filter(|a| a.node_id == node_id) {
        put(ItemKind::Attachment(AttachmentItem {
            id: attachment.id.clone(),
            network: attachment.network.clone(),
            container_id: attachment.container_id.clone(),
        }));
    }
    items
}

fn hosted_networks<'a>(state: &'a ClusterState, node_id: &str) -> BTreeMap<&'a str, &'a Network> {
    let of_tasks = state
        .tasks
        .values()
        .filter(|t| t.node_id == node_id && is_assigned(t) && !has_ended(t))
        .flat_map(|t| t.networks.iter());
    let of_attachments = state
        .attachments
        .values()
        .filter(|a| a.node_id == node_id)
        .map(|a| &a.network);
    of_tasks
        .chain(of_attachments)
        .filter_map(|n| state.networks.get(&n.network_id))
        .map(|n| (n.id.as_str(), &**n))
        .collect()
}

fn swarm(state: &ClusterState, cluster: &Cluster, node: &Node) -> SwarmItem {
    let managers = state
        .nodes
        .values()
        .filter(|n| n.raft_id != 0 && !n.manager_address.is_empty());
    SwarmItem {
        cluster_id: cluster.id.clone(),
        probe_key: cluster.probe_key.clone(),
        data_path_port: cluster.data_path_port,
        self_node_id: node.id.clone(),
        self_index: node.index,
        ingress_network_id: state.ingress().map(|n| n.id.clone()).unwrap_or_default(),
        managers: managers.map(|n| n.manager_address.clone()).collect(),
        raft_id: Some(node.raft_id),
        trust_digest: root::digest(&root::trusted(cluster)),
    }
}

fn peer(node: &Node) -> PeerItem {
    let underlay = if node.data_path_address.is_empty() {
        &node.address
    } else {
        &node.data_path_address
    };
    PeerItem {
        node_id: node.id.clone(),
        index: node.index,
        underlay: underlay.clone(),
        hostname: node
            .description
            .as_ref()
            .map(|d| d.hostname.clone())
            .unwrap_or_default(),
        ready: node.state() != NodeState::Down,
    }
}

/// Whether the task is in the tables, and if so whether it drains. Only tasks that run are, on nodes that are not down.
/// One that was no longer wanted before it ran never enters them.
fn in_tables(state: &ClusterState, task: &Task) -> Option<bool> {
    let runs = observed(task) == TaskState::Running as i32 && state.may_run(&task.node_id);
    let draining = !is_wanted(task) || is_evicted(task);
    let shown = runs && (!draining || task.withdrawn_at != 0);
    // An unhealthy task is on its way to its end, too.
    shown.then_some(draining || task.status.unhealthy)
}

/// Whether new connections go to the task.
pub(super) fn serves(state: &ClusterState, task: &Task) -> bool {
    in_tables(state, task) == Some(false)
}

/// A task on its way to run is in no name and no VIP, but its address has to be known: other nodes would take the first
/// packets of its process for forged ones.
fn starts(state: &ClusterState, task: &Task) -> bool {
    let on_its_way = (TaskState::Assigned as i32..TaskState::Running as i32).contains(&task.status.state);
    on_its_way && is_wanted(task) && state.may_run(&task.node_id)
}

fn published(state: &ClusterState) -> Vec<PublishedItem> {
    let Some(ingress) = state.ingress() else {
        return Vec::new();
    };
    let mut items: BTreeMap<&str, PublishedItem> = BTreeMap::new();
    for service in state.services.values() {
        let ports: Vec<PortConfig> = service
            .ports
            .iter()
            .filter(|p| p.publish_mode() == PublishMode::Ingress)
            .cloned()
            .collect();
        if ports.is_empty() {
            continue;
        }
        let item = PublishedItem {
            service_id: service.id.clone(),
            ports,
            rows: service.rows,
            tasks: Vec::new(),
            service_name: service.spec.annotations.name.clone(),
            ingress_vni: ingress.vni,
            mode: ingress::mode_of(&service.spec).unwrap_or(IngressMode::Mesh) as i32,
            ingress_address: ingress::scope_of(service).map_or_else(String::new, |a| a.to_string()),
        };
        items.insert(&service.id, item);
    }
    for task in state.tasks.values() {
        let Some(item) = items.get_mut(task.service_id.as_str()) else {
            continue;
        };
        let (Some(draining), Some(address)) = (in_tables(state, task), address_on(task, &ingress.id)) else {
            continue;
        };
        item.tasks.push(PublishedTask {
            task_id: task.id.clone(),
            address,
            node_index: node_index(state, &task.node_id),
            draining,
        });
    }
    items.into_values().collect()
}

fn ingress_addresses(state: &ClusterState) -> Vec<IngressAddressItem> {
    let asked: BTreeSet<_> = state
        .services
        .values()
        .filter_map(|s| ingress::scope_of(s))
        .collect();
    let item = |address: &IngressAddress| IngressAddressItem {
        id: address.id.clone(),
        index: address.index,
        address: address.spec.address.clone(),
        interface: address.spec.interface.clone(),
        epoch: address.epoch,
        owners: address.owners.clone(),
        observers: address.observers.clone(),
        dedicated: ingress::bare(&address.spec.address).is_some_and(|a| asked.contains(&a)),
    };
    state.ingress_addresses.values().map(|a| item(a)).collect()
}

fn node_index(state: &ClusterState, node_id: &str) -> u32 {
    state.nodes.get(node_id).map_or(0, |n| n.index)
}

fn address_on(task: &Task, network_id: &str) -> Option<String> {
    let attachment = task.networks.iter().find(|n| n.network_id == network_id)?;
    attachment.addresses.first().map(|a| bare(a))
}

/// An address without its prefix length.
fn bare(cidr: &str) -> String {
    cidr.split('/').next().unwrap_or(cidr).to_string()
}

fn network_item(network: &Network) -> NetworkItem {
    NetworkItem {
        network_id: network.id.clone(),
        name: network.spec.annotations.name.clone(),
        vni: network.vni,
        ipam: network.ipam.clone(),
        internal: network.spec.internal,
        attachable: network.spec.attachable,
        ingress: network.spec.ingress,
        options: network
            .spec
            .driver
            .as_ref()
            .map(|d| d.options.clone())
            .unwrap_or_default(),
        labels: network.spec.annotations.labels.clone(),
    }
}

fn services(state: &ClusterState, hosted: &BTreeMap<&str, &Network>) -> Vec<ServiceItem> {
    let mut items = Vec::new();
    for service in state.services.values() {
        for asked in networks_of(&service.spec) {
            if !hosted.contains_key(asked.target.as_str()) {
                continue;
            }
            let vip = service.vips.iter().find(|v| v.network_id == asked.target);
            items.push(ServiceItem {
                service_id: service.id.clone(),
                network_id: asked.target.clone(),
                name: service.spec.annotations.name.clone(),
                vip: vip.map(|v| bare(&v.address)).unwrap_or_default(),
                aliases: asked.aliases.clone(),
            });
        }
    }
    items
}

fn endpoints(state: &ClusterState, hosted: &BTreeMap<&str, &Network>) -> Vec<EndpointItem> {
    let is_shown = |id: &str| hosted.get(id).is_some_and(|n| !n.spec.ingress);
    let mut items = Vec::new();
    for task in state.tasks.values() {
        let withdrawn = in_tables(state, task).or_else(|| starts(state, task).then_some(true));
        let Some(draining) = withdrawn else { continue };
        for network in task.networks.iter().filter(|n| is_shown(&n.network_id)) {
            let Some(address) = network.addresses.first() else {
                continue;
            };
            let short_id = task
                .status
                .container
                .as_ref()
                .and_then(|c| c.container_id.get(..12));
            items.push(EndpointItem {
                id: task.id.clone(),
                network_id: network.network_id.clone(),
                service_id: task.service_id.clone(),
                address: bare(address),
                node_index: node_index(state, &task.node_id),
                names: [task_name(task)]
                    .into_iter()
                    .chain(short_id.map(str::to_string))
                    .collect(),
                draining,
            });
        }
    }
    for attachment in state.attachments.values().filter(|a| state.may_run(&a.node_id)) {
        let network = &attachment.network;
        let Some(address) = network
            .addresses
            .first()
            .filter(|_| is_shown(&network.network_id))
        else {
            continue;
        };
        let short_id = attachment.container_id.get(..12).map(str::to_string);
        items.push(EndpointItem {
            id: attachment.id.clone(),
            network_id: network.network_id.clone(),
            service_id: String::new(),
            address: bare(address),
            node_index: node_index(state, &attachment.node_id),
            names: attachment.names.iter().cloned().chain(short_id).collect(),
            draining: false,
        });
    }
    items
}

/// A task that never was in the tables waits for nobody: it is released as soon as it is unwanted.
fn task(state: &ClusterState, task: &Task, node: &Node, released: &BTreeSet<String>) -> TaskItem {
    let service = state.services.get(&task.service_id);
    TaskItem {
        id: task.id.clone(),
        service_id: task.service_id.clone(),
        service: task.service.clone(),
        slot: task.slot,
        spec: task.spec.clone(),
        desired_state: task.desired_state,
        networks: task.networks.clone(),
        ports: task.ports.clone(),
        observed_state: observed(task),
        released: !is_wanted(task) && (task.withdrawn_at == 0 || released.contains(&task.id)),
        drain: service.map_or(0, |s| rollout::drain(&s.spec)),
        runs_when_listening: service.is_some_and(|s| rollout::runs_when_listening(&s.spec)),
        generic: task.generic.clone(),
        node_hostname: node
            .description
            .as_ref()
            .map(|d| d.hostname.clone())
            .unwrap_or_default(),
    }
}
