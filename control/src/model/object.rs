//! What is stored (`…` records): a spec, what was allocated for it, and what was observed.

use prost::{Enumeration, Message};

use super::spec::*;
use super::update::UpdateProgress;

/// Unix time in nanoseconds.
pub type Timestamp = i64;

/// Version index = Raft index of the last write; times come from the command that wrote.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Meta {
    #[prost(uint64, tag = "1")]
    pub version: u64,
    #[prost(int64, tag = "2")]
    pub created_at: Timestamp,
    #[prost(int64, tag = "3")]
    pub updated_at: Timestamp,
}

/// The swarm itself: exactly one.
#[derive(Clone, PartialEq, Message)]
pub struct Cluster {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, required, tag = "2")]
    pub meta: Meta,
    #[prost(message, required, tag = "3")]
    pub spec: ClusterSpec,
    /// Pools that subnets without a wish are taken from; 10.0.0.0/8 if empty.
    #[prost(string, repeated, tag = "4")]
    pub default_address_pools: Vec<String>,
    /// Prefix length of a subnet taken from a pool; 24 by default.
    #[prost(uint32, tag = "5")]
    pub subnet_size: u32,
    #[prost(bool, tag = "6")]
    pub default_address_pools_set: bool,
    /// UDP port of VXLAN; 4789 by default.
    #[prost(uint32, tag = "7")]
    pub data_path_port: u32,
    /// PEM of the root certificate.
    #[prost(string, tag = "8")]
    pub root_ca_cert: String,
    /// PEM of the root's private key (records are sealed at rest).
    #[prost(string, tag = "9")]
    pub root_ca_key: String,
    #[prost(string, tag = "10")]
    pub worker_token: String,
    #[prost(string, tag = "11")]
    pub manager_token: String,
    /// 32 bytes; authenticates peer probes.
    #[prost(bytes = "vec", tag = "12")]
    pub probe_key: Vec<u8>,
    /// Seed of the rendezvous rows of services created from now on.
    #[prost(uint64, tag = "13")]
    pub mesh_seed: u64,
    /// `SWMKEY-1-...` while managers are locked, else empty.
    #[prost(string, tag = "20")]
    pub unlock_key: String,
    /// A new root on its way to all nodes.
    #[prost(message, optional, tag = "21")]
    pub root_rotation: Option<RootRotation>,
}

/// The root that takes over when every node has a certificate of it (swarmkit api/types.proto RootRotation).
#[derive(Clone, PartialEq, Message)]
pub struct RootRotation {
    /// PEM.
    #[prost(string, tag = "1")]
    pub ca_cert: String,
    /// PEM.
    #[prost(string, tag = "2")]
    pub ca_key: String,
    /// The new root's key signed by the old root: who trusts only the old one verifies new certificates by it. PEM.
    #[prost(string, tag = "3")]
    pub cross_signed: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Node {
    /// CN of the node's certificate.
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, required, tag = "2")]
    pub meta: Meta,
    #[prost(message, required, tag = "3")]
    pub spec: NodeSpec,
    #[prost(uint32, tag = "4")]
    pub index: u32,
    /// 0 for a worker.
    #[prost(uint64, tag = "5")]
    pub raft_id: u64,
    /// `host:port` of its manager (Raft and node RPC); empty for a worker.
    #[prost(string, tag = "6")]
    pub manager_address: String,
    /// Address other nodes and clients reach it by; never 0.0.0.0.
    #[prost(string, tag = "7")]
    pub address: String,
    /// Underlay address of the data path.
    #[prost(string, tag = "8")]
    pub data_path_address: String,
    #[prost(message, optional, tag = "9")]
    pub description: Option<NodeDescription>,
    #[prost(enumeration = "NodeState", tag = "10")]
    pub state: i32,
    #[prost(string, tag = "11")]
    pub message: String,
    /// PEM of the certificate it was last issued.
    #[prost(string, tag = "12")]
    pub certificate: String,
    /// When the node was found to be down; 0 while it is not.
    #[prost(int64, tag = "13")]
    pub down_since: Timestamp,
    /// SHA-256 of the PEM of the roots it was last given to trust.
    #[prost(bytes = "vec", tag = "20")]
    pub trust_digest: Vec<u8>,
    /// SHA-256 of the PEM of the root whose key signed its certificate.
    #[prost(bytes = "vec", tag = "21")]
    pub issuer_digest: Vec<u8>,
    /// A manager that was left behind by `--force-new-cluster`: its Raft is of another group.
    #[prost(bool, tag = "22")]
    pub left_behind: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum NodeState {
    Unknown = 0,
    Down = 1,
    Ready = 2,
    Disconnected = 3,
}

#[derive(Clone, PartialEq, Message)]
pub struct NodeDescription {
    #[prost(string, tag = "1")]
    pub hostname: String,
    #[prost(message, optional, tag = "2")]
    pub platform: Option<Platform>,
    #[prost(int64, tag = "3")]
    pub nano_cpus: i64,
    /// Bytes.
    #[prost(int64, tag = "4")]
    pub memory: i64,
    #[prost(string, tag = "5")]
    pub engine_version: String,
    #[prost(btree_map = "string, string", tag = "6")]
    pub engine_labels: std::collections::BTreeMap<String, String>,
    /// `Type/Name` pairs, e.g. `Network/bridge`.
    #[prost(string, repeated, tag = "7")]
    pub plugins: Vec<String>,
    /// Whether packets with another node's source address arrive here: what mode `dsr` of published ports needs.
    #[prost(enumeration = "Dsr", tag = "8")]
    pub dsr: i32,
    /// What was seen, for users; empty while nothing is known.
    #[prost(string, tag = "9")]
    pub dsr_text: String,
    /// Generic resources, as the Engine was told of them.
    #[prost(message, repeated, tag = "10")]
    pub generic: Vec<GenericResource>,
}

/// What a node's probes with a foreign source address came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Dsr {
    Unknown = 0,
    Works = 1,
    /// The network drops them.
    Dropped = 2,
}

#[derive(Clone, PartialEq, Message)]
pub struct Service {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, required, tag = "2")]
    pub meta: Meta,
    #[prost(message, required, tag = "3")]
    pub spec: ServiceSpec,
    #[prost(message, optional, tag = "4")]
    pub previous_spec: Option<ServiceSpec>,
    /// Ports as allocated (published port chosen where the spec says 0).
    #[prost(message, repeated, tag = "5")]
    pub ports: Vec<PortConfig>,
    /// One per network in VIP mode; the ingress network included when a port is published through it.
    #[prost(message, repeated, tag = "6")]
    pub vips: Vec<VirtualIp>,
    /// How rows of this service's published ports are computed; fixed from its creation.
    #[prost(message, required, tag = "7")]
    pub rows: RowsSpec,
    /// Raft index of the last change of `spec` (swarmkit's SpecVersion).
    #[prost(uint64, tag = "8")]
    pub spec_version: u64,
    #[prost(message, optional, tag = "9")]
    pub update_status: Option<UpdateStatus>,
    /// Of the update that is under way or was the last; absent until it begins.
    #[prost(message, optional, tag = "25")]
    pub update_progress: Option<UpdateProgress>,
    /// Of a job, and of nothing else.
    #[prost(message, optional, tag = "20")]
    pub job: Option<JobStatus>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct UpdateStatus {
    /// `updating`, `paused`, `completed`, `rollback_started`, `rollback_paused`, `rollback_completed`.
    #[prost(string, tag = "1")]
    pub state: String,
    #[prost(int64, optional, tag = "2")]
    pub started_at: Option<Timestamp>,
    #[prost(int64, optional, tag = "3")]
    pub completed_at: Option<Timestamp>,
    #[prost(string, tag = "4")]
    pub message: String,
}

/// How often a job was run: every update of its service runs it again.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct JobStatus {
    /// 0 at first.
    #[prost(uint64, tag = "1")]
    pub iteration: u64,
    #[prost(int64, tag = "2")]
    pub last_execution: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RowsSpec {
    #[prost(uint64, tag = "1")]
    pub seed: u64,
    #[prost(uint32, tag = "2")]
    pub rows_log2: u32,
    #[prost(uint32, tag = "3")]
    pub algorithm: u32,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct VirtualIp {
    #[prost(string, tag = "1")]
    pub network_id: String,
    /// CIDR text, e.g. `10.0.1.2/24`.
    #[prost(string, tag = "2")]
    pub address: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Task {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, required, tag = "2")]
    pub meta: Meta,
    #[prost(string, tag = "3")]
    pub service_id: String,
    /// Name and labels of the service when the task was made (`ServiceAnnotations` in swarmkit).
    #[prost(message, required, tag = "4")]
    pub service: Annotations,
    #[prost(uint64, tag = "5")]
    pub slot: u64,
    /// Empty until scheduled.
    #[prost(string, tag = "6")]
    pub node_id: String,
    #[prost(message, required, tag = "7")]
    pub spec: TaskSpec,
    #[prost(uint64, tag = "8")]
    pub spec_version: u64,
    /// Written by managers only.
    #[prost(enumeration = "TaskState", tag = "9")]
    pub desired_state: i32,
    /// Written by the node once the task is assigned to it; only moves forward.
    #[prost(message, required, tag = "10")]
    pub status: TaskStatus,
    #[prost(message, repeated, tag = "11")]
    pub networks: Vec<NetworkAttachment>,
    /// The endpoint's ports when the task was made.
    #[prost(message, repeated, tag = "12")]
    pub ports: Vec<PortConfig>,
    /// Raft index at which the task left the tables (desired state above RUNNING); 0 before.
    #[prost(uint64, tag = "13")]
    pub withdrawn_at: u64,
    /// Endpoint mode and ports of the service when the task was made: a change makes the task dirty.
    #[prost(message, optional, tag = "14")]
    pub endpoint: Option<EndpointSpec>,
    /// When a delayed restart may begin: desired state goes READY -> RUNNING then. 0 = no delay.
    #[prost(int64, tag = "15")]
    pub start_not_before: Timestamp,
    /// [`UpdateProgress::number`] of the update that made this task; 0 if scaling or a restart did.
    #[prost(uint64, tag = "25")]
    pub update: u64,
    /// When the managers heard that it runs; 0 before. An update's monitor counts from here.
    #[prost(int64, tag = "26")]
    pub ran_at: Timestamp,
    /// When the managers heard that it ended although it was wanted; 0 otherwise.
    #[prost(int64, tag = "27")]
    pub failed_at: Timestamp,
    /// Of a job: the iteration it is part of. Such a task is wanted up to COMPLETE, any other up to RUNNING.
    #[prost(uint64, optional, tag = "20")]
    pub job_iteration: Option<u64>,
    /// Made for the node `node_id`, and for no other: it has no slot.
    #[prost(bool, tag = "21")]
    pub preassigned: bool,
    /// Generic resources of its node that the scheduler gave it.
    #[prost(message, repeated, tag = "30")]
    pub generic: Vec<GenericResource>,
    /// Set when the constraint enforcer rejected the task: the observed state it was found in, until its node says that
    /// it has ended. 0 otherwise.
    #[prost(int32, tag = "31")]
    pub evicted_from: i32,
    /// The node that has the data of the slot's local volumes; empty if there are none.
    #[prost(string, tag = "32")]
    pub volume_node: String,
    /// Made to take the place of a task that runs on a crowded node (`skep.rebalance`).
    #[prost(bool, tag = "33")]
    pub moves: bool,
}

/// swarmkit api/types.proto TaskState: gaps leave room for states to come; of two observations the greater is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum TaskState {
    New = 0,
    Pending = 64,
    Assigned = 192,
    Accepted = 256,
    Preparing = 320,
    Ready = 384,
    Starting = 448,
    Running = 512,
    Complete = 576,
    Shutdown = 640,
    Failed = 704,
    Rejected = 768,
    Remove = 800,
    Orphaned = 832,
}

#[derive(Clone, PartialEq, Message)]
pub struct TaskStatus {
    #[prost(enumeration = "TaskState", tag = "1")]
    pub state: i32,
    #[prost(int64, tag = "2")]
    pub timestamp: Timestamp,
    #[prost(string, tag = "3")]
    pub message: String,
    #[prost(string, tag = "4")]
    pub err: String,
    #[prost(message, optional, tag = "5")]
    pub container: Option<ContainerStatus>,
    /// Host-mode ports as bound.
    #[prost(message, repeated, tag = "6")]
    pub ports: Vec<PortConfig>,
    /// It runs, but its health check failed: it is being stopped, and in no table.
    #[prost(bool, tag = "30")]
    pub unhealthy: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContainerStatus {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(int64, tag = "2")]
    pub pid: i64,
    #[prost(int64, optional, tag = "3")]
    pub exit_code: Option<i64>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct NetworkAttachment {
    #[prost(string, tag = "1")]
    pub network_id: String,
    /// CIDR texts, e.g. `10.0.1.3/24`.
    #[prost(string, repeated, tag = "2")]
    pub addresses: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub aliases: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Network {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, required, tag = "2")]
    pub meta: Meta,
    #[prost(message, required, tag = "3")]
    pub spec: NetworkSpec,
    #[prost(uint32, tag = "4")]
    pub vni: u32,
    /// As allocated: every subnet with its gateway.
    #[prost(message, repeated, tag = "5")]
    pub ipam: Vec<IpamConfig>,
}

/// A plain container's (`docker run --network`) place on an attachable network, from create to remove.
#[derive(Clone, PartialEq, Message)]
pub struct Attachment {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, required, tag = "2")]
    pub meta: Meta,
    #[prost(string, tag = "3")]
    pub node_id: String,
    #[prost(message, required, tag = "4")]
    pub network: NetworkAttachment,
    /// Engine's container id once created; empty between reservation and create.
    #[prost(string, tag = "5")]
    pub container_id: String,
    /// Container name and user aliases: resolvable on the network.
    #[prost(string, repeated, tag = "6")]
    pub names: Vec<String>,
}
