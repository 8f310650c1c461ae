//! What a node is told: a set of items, streamed as one COMPLETE set and then INCREMENTAL changes.
//!
//! Every item has a scope: `own` (this node's tasks and attachments), one per `network` that the node hosts, and
//! `mesh` (every node). A node is sent nothing else.

use std::collections::BTreeMap;

use prost::{Enumeration, Message, Oneof};

use super::object::*;
use super::spec::*;

/// One message of the assignment stream. A node whose set is not at `applies_to` ends the stream and starts anew.
#[derive(Clone, PartialEq, Message)]
pub struct Assignments {
    #[prost(enumeration = "AssignmentsKind", tag = "1")]
    pub kind: i32,
    /// Raft index of the set that the changes apply to; 0 for COMPLETE.
    #[prost(uint64, tag = "2")]
    pub applies_to: u64,
    /// Raft index of the resulting set.
    #[prost(uint64, tag = "3")]
    pub results_in: u64,
    #[prost(message, repeated, tag = "4")]
    pub changes: Vec<ItemChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum AssignmentsKind {
    Complete = 0,
    Incremental = 1,
}

#[derive(Clone, PartialEq, Message)]
pub struct ItemChange {
    /// Key of the item, see [`item_key`].
    #[prost(string, tag = "1")]
    pub key: String,
    /// Absent = remove.
    #[prost(message, optional, tag = "2")]
    pub put: Option<Item>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Item {
    #[prost(oneof = "ItemKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub kind: Option<ItemKind>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "few exist at a time, and a box would hide in every match"
)]
#[derive(Clone, PartialEq, Oneof)]
pub enum ItemKind {
    /// mesh: keys and numbers of the swarm.
    #[prost(message, tag = "1")]
    Swarm(SwarmItem),
    /// mesh: one per node, self included.
    #[prost(message, tag = "2")]
    Peer(PeerItem),
    /// mesh: one per service with ports published through the mesh.
    #[prost(message, tag = "3")]
    Published(PublishedItem),
    /// network
    #[prost(message, tag = "4")]
    Network(NetworkItem),
    /// network: one per service and network.
    #[prost(message, tag = "5")]
    Service(ServiceItem),
    /// network: one per running task or attachment and network.
    #[prost(message, tag = "6")]
    Endpoint(EndpointItem),
    /// own
    #[prost(message, tag = "7")]
    Task(TaskItem),
    /// own
    #[prost(message, tag = "8")]
    Attachment(AttachmentItem),
    /// mesh: one per ingress address.
    #[prost(message, tag = "9")]
    IngressAddress(IngressAddressItem),
}

#[derive(Clone, PartialEq, Message)]
pub struct SwarmItem {
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub probe_key: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub data_path_port: u32,
    #[prost(string, tag = "4")]
    pub self_node_id: String,
    #[prost(uint32, tag = "5")]
    pub self_index: u32,
    #[prost(string, tag = "6")]
    pub ingress_network_id: String,
    /// `host:port` of every manager, so that a node finds one after any of them died.
    #[prost(string, repeated, tag = "7")]
    pub managers: Vec<String>,
    /// What the node is to be: 0 a worker, else a manager with that Raft id. Absent: managers of an earlier version.
    #[prost(uint64, optional, tag = "20")]
    pub raft_id: Option<u64>,
    /// SHA-256 of the PEM of the roots that nodes trust now: who has others renews its certificate.
    #[prost(bytes = "vec", tag = "21")]
    pub trust_digest: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PeerItem {
    #[prost(string, tag = "1")]
    pub node_id: String,
    #[prost(uint32, tag = "2")]
    pub index: u32,
    #[prost(string, tag = "3")]
    pub underlay: String,
    #[prost(string, tag = "4")]
    pub hostname: String,
    /// False once the managers call it down: its tasks are then gone from the tables anyway.
    #[prost(bool, tag = "5")]
    pub ready: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct PublishedItem {
    #[prost(string, tag = "1")]
    pub service_id: String,
    #[prost(message, repeated, tag = "2")]
    pub ports: Vec<PortConfig>,
    #[prost(message, required, tag = "3")]
    pub rows: RowsSpec,
    #[prost(message, repeated, tag = "4")]
    pub tasks: Vec<PublishedTask>,
    #[prost(string, tag = "5")]
    pub service_name: String,
    /// VNI of the ingress network.
    #[prost(uint32, tag = "6")]
    pub ingress_vni: u32,
    #[prost(enumeration = "IngressMode", tag = "7")]
    pub mode: i32,
    /// The ingress address that the ports answer on, without prefix length; empty: the nodes' own addresses and all ingress addresses
    /// that no service asks for by name.
    #[prost(string, tag = "8")]
    pub ingress_address: String,
}

/// How a published port's packets travel (`skep.ingress.mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum IngressMode {
    /// Any task; replies go back through the node the client came in through.
    Mesh = 0,
    /// Any task; replies leave from the task's node.
    Dsr = 1,
    /// Tasks of the node the client came in through only.
    Local = 2,
}

/// An address of the swarm: who may hold it, and who decides which of them does. Who holds it now is no matter of the
/// managers: the nodes agree on it by leases.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct IngressAddressItem {
    #[prost(string, tag = "1")]
    pub id: String,
    /// Committed, never reused: names the address in probes.
    #[prost(uint32, tag = "2")]
    pub index: u32,
    /// CIDR text, e.g. `192.168.50.100/24`.
    #[prost(string, tag = "3")]
    pub address: String,
    /// Interface that carries it on every owner; empty: the one with an address of the same subnet, else the data path's.
    #[prost(string, tag = "4")]
    pub interface: String,
    /// Rises with every change of owners or observers.
    #[prost(uint64, tag = "5")]
    pub epoch: u64,
    /// Indexes of the nodes that may hold it, best first.
    #[prost(uint32, repeated, tag = "6")]
    pub owners: Vec<u32>,
    /// Indexes of the nodes whose majority grants the lease.
    #[prost(uint32, repeated, tag = "7")]
    pub observers: Vec<u32>,
    /// Only the ports of services that ask for it by name answer on it.
    #[prost(bool, tag = "8")]
    pub dedicated: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct PublishedTask {
    #[prost(string, tag = "1")]
    pub task_id: String,
    /// Address in the ingress network, without prefix length.
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(uint32, tag = "3")]
    pub node_index: u32,
    /// Keeps its known flows, takes no new ones.
    #[prost(bool, tag = "4")]
    pub draining: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct NetworkItem {
    #[prost(string, tag = "1")]
    pub network_id: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(uint32, tag = "3")]
    pub vni: u32,
    #[prost(message, repeated, tag = "4")]
    pub ipam: Vec<IpamConfig>,
    #[prost(bool, tag = "5")]
    pub internal: bool,
    #[prost(bool, tag = "6")]
    pub attachable: bool,
    #[prost(bool, tag = "7")]
    pub ingress: bool,
    #[prost(btree_map = "string, string", tag = "8")]
    pub options: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "9")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ServiceItem {
    #[prost(string, tag = "1")]
    pub service_id: String,
    #[prost(string, tag = "2")]
    pub network_id: String,
    #[prost(string, tag = "3")]
    pub name: String,
    /// Without prefix length; empty in dnsrr mode.
    #[prost(string, tag = "4")]
    pub vip: String,
    /// Aliases of the service on this network: they resolve as its name does.
    #[prost(string, repeated, tag = "5")]
    pub aliases: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct EndpointItem {
    /// Task or attachment id.
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub network_id: String,
    /// Empty for an attachment.
    #[prost(string, tag = "3")]
    pub service_id: String,
    #[prost(string, tag = "4")]
    pub address: String,
    #[prost(uint32, tag = "5")]
    pub node_index: u32,
    /// Names of the container itself (container name, short id, an attachment's aliases).
    #[prost(string, repeated, tag = "6")]
    pub names: Vec<String>,
    /// Withdrawn: stays reachable, is in no VIP and no name.
    #[prost(bool, tag = "7")]
    pub draining: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct TaskItem {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub service_id: String,
    #[prost(message, required, tag = "3")]
    pub service: Annotations,
    #[prost(uint64, tag = "4")]
    pub slot: u64,
    #[prost(message, required, tag = "5")]
    pub spec: TaskSpec,
    #[prost(enumeration = "TaskState", tag = "6")]
    pub desired_state: i32,
    #[prost(message, repeated, tag = "7")]
    pub networks: Vec<NetworkAttachment>,
    #[prost(message, repeated, tag = "8")]
    pub ports: Vec<PortConfig>,
    /// What the managers know of it: a node never reports less.
    #[prost(enumeration = "TaskState", tag = "9")]
    pub observed_state: i32,
    /// Every node in reach runs tables without this task: its stop signal may be sent.
    #[prost(bool, tag = "10")]
    pub released: bool,
    /// The node's own labels and names, for templates.
    #[prost(string, tag = "11")]
    pub node_hostname: String,
    /// How long a stop signal waits at most for the connections that the task has; 0 where the service is gone.
    #[prost(int64, tag = "20")]
    pub drain: Nanos,
    /// The task runs when it listens: another one serves until then (start-first without a health check).
    #[prost(bool, tag = "21")]
    pub runs_when_listening: bool,
    /// Generic resources of the node that are the task's.
    #[prost(message, repeated, tag = "35")]
    pub generic: Vec<GenericResource>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AttachmentItem {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, required, tag = "2")]
    pub network: NetworkAttachment,
    #[prost(string, tag = "3")]
    pub container_id: String,
}

impl TaskItem {
    /// Whether the task is to stop: tasks of jobs are wanted up to COMPLETE.
    pub fn is_leaving(&self) -> bool {
        self.desired_state > TaskState::Complete as i32
    }

    /// Its slot, or the node where it has none (swarmkit template/context.go, api/naming/naming.go).
    pub fn place(&self, node_id: &str) -> String {
        match self.slot {
            0 => node_id.to_string(),
            slot => slot.to_string(),
        }
    }

    /// Swarm's name of the task's container.
    pub fn name(&self, node_id: &str) -> String {
        format!("{}.{}.{}", self.service.name, self.place(node_id), self.id)
    }
}

/// The set of items a node works by: what the stream folds to and the ledger stores.
pub type Items = BTreeMap<String, Item>;

/// Kind, then ids: unique in a set, and the order of kinds is the order of dependence.
pub fn item_key(kind: &ItemKind) -> String {
    match kind {
        ItemKind::Swarm(_) => "swarm".to_string(),
        ItemKind::Peer(p) => format!("peer/{}", p.node_id),
        ItemKind::Published(p) => format!("published/{}", p.service_id),
        ItemKind::Network(n) => format!("network/{}", n.network_id),
        ItemKind::Service(s) => format!("service/{}/{}", s.network_id, s.service_id),
        ItemKind::Endpoint(e) => format!("endpoint/{}/{}", e.network_id, e.id),
        ItemKind::Task(t) => format!("task/{}", t.id),
        ItemKind::Attachment(a) => format!("attachment/{}", a.id),
        ItemKind::IngressAddress(a) => format!("ingress/{}", a.id),
    }
}

/// The changes that turn `old` into `new`.
pub fn diff(old: &Items, new: &Items) -> Vec<ItemChange> {
    let puts = new
        .iter()
        .filter(|(key, item)| old.get(*key) != Some(item))
        .map(|(key, item)| ItemChange {
            key: key.clone(),
            put: Some(item.clone()),
        });
    let removes = old
        .keys()
        .filter(|key| !new.contains_key(*key))
        .map(|key| ItemChange {
            key: key.clone(),
            put: None,
        });
    puts.chain(removes).collect()
}

/// Applies the changes of one message.
pub fn fold(items: &mut Items, changes: &[ItemChange]) {
    for change in changes {
        match &change.put {
            Some(item) => {
                items.insert(change.key.clone(), item.clone());
            }
            None => {
                items.remove(&change.key);
            }
        }
    }
}
