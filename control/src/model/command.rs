//! What is written to the Raft log. Ids, times and seeds travel in the command: apply reads no clock and no chance.

use prost::{Enumeration, Message, Oneof};

use super::ingress::*;
use super::object::*;
use super::spec::*;

#[derive(Clone, PartialEq, Message)]
pub struct Command {
    /// Proposer's time.
    #[prost(int64, tag = "1")]
    pub now: Timestamp,
    #[prost(
        oneof = "Change",
        tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 30, 31"
    )]
    pub change: Option<Change>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Change {
    #[prost(message, tag = "2")]
    InitCluster(InitCluster),
    #[prost(message, tag = "3")]
    UpdateCluster(UpdateCluster),
    #[prost(message, tag = "4")]
    CreateNode(CreateNode),
    #[prost(message, tag = "5")]
    UpdateNode(UpdateNode),
    #[prost(message, tag = "6")]
    ReportNode(ReportNode),
    #[prost(message, tag = "7")]
    RemoveNode(RemoveNode),
    #[prost(message, tag = "8")]
    CreateService(CreateService),
    #[prost(message, tag = "9")]
    UpdateService(UpdateService),
    #[prost(message, tag = "10")]
    RemoveService(RemoveService),
    #[prost(message, tag = "11")]
    CreateNetwork(CreateNetwork),
    #[prost(message, tag = "12")]
    RemoveNetwork(RemoveNetwork),
    #[prost(message, tag = "13")]
    PlanTasks(PlanTasks),
    #[prost(message, tag = "14")]
    ReportTasks(ReportTasks),
    #[prost(message, tag = "15")]
    CreateAttachment(CreateAttachment),
    #[prost(message, tag = "16")]
    UpdateAttachment(UpdateAttachment),
    #[prost(message, tag = "17")]
    CreateIngressAddress(CreateIngressAddress),
    #[prost(message, tag = "18")]
    RemoveIngressAddress(RemoveIngressAddress),
    #[prost(message, tag = "19")]
    RankIngressAddresses(RankIngressAddresses),
    #[prost(message, tag = "20")]
    MoveIngressAddress(MoveIngressAddress),
    #[prost(message, tag = "30")]
    ForceNewCluster(ForceNewCluster),
    #[prost(message, tag = "31")]
    FinishRootRotation(FinishRootRotation),
}

/// The first command of a swarm: cluster, first node and ingress network in one.
#[derive(Clone, PartialEq, Message)]
pub struct InitCluster {
    /// Complete but for meta.
    #[prost(message, required, tag = "1")]
    pub cluster: Cluster,
    /// Complete but for meta, index and raft id.
    #[prost(message, required, tag = "2")]
    pub node: Node,
    #[prost(string, tag = "3")]
    pub ingress_network_id: String,
    /// `10.255.0.0/16` unless told otherwise.
    #[prost(string, tag = "4")]
    pub ingress_subnet: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateCluster {
    /// The version the client saw; 0 = unconditional (internal writers only).
    #[prost(uint64, tag = "1")]
    pub version: u64,
    #[prost(message, optional, tag = "2")]
    pub spec: Option<ClusterSpec>,
    #[prost(string, optional, tag = "3")]
    pub worker_token: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub manager_token: Option<String>,
    /// Used when the spec locks managers and they are not locked yet, or `rotate_unlock_key`.
    #[prost(string, optional, tag = "10")]
    pub unlock_key: Option<String>,
    #[prost(bool, tag = "11")]
    pub rotate_unlock_key: bool,
    /// Begins a rotation, in place of one that is under way.
    #[prost(message, optional, tag = "12")]
    pub root_rotation: Option<RootRotation>,
}

/// This manager's Raft group goes on alone: the other managers are none any more.
#[derive(Clone, PartialEq, Message)]
pub struct ForceNewCluster {
    #[prost(string, tag = "1")]
    pub node_id: String,
    /// `host:port`.
    #[prost(string, tag = "2")]
    pub manager_address: String,
}

/// Every node has a certificate of the new root. Refused when one has not, or another rotation began.
#[derive(Clone, PartialEq, Message)]
pub struct FinishRootRotation {
    /// PEM of the root that takes over.
    #[prost(string, tag = "1")]
    pub ca_cert: String,
    #[prost(string, tag = "2")]
    pub worker_token: String,
    #[prost(string, tag = "3")]
    pub manager_token: String,
}

/// Answered with the numbers in [`Applied::node_index`] and [`Applied::raft_id`].
#[derive(Clone, PartialEq, Message)]
pub struct CreateNode {
    /// Complete but for meta, index and raft id (a manager gets one).
    #[prost(message, required, tag = "1")]
    pub node: Node,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateNode {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(uint64, tag = "2")]
    pub version: u64,
    #[prost(message, required, tag = "3")]
    pub spec: NodeSpec,
}

/// Observed by the leader or told by the node. Absent = unchanged. Raises no version when nothing changes.
#[derive(Clone, PartialEq, Message)]
pub struct ReportNode {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(enumeration = "NodeState", optional, tag = "2")]
    pub state: Option<i32>,
    #[prost(string, optional, tag = "3")]
    pub message: Option<String>,
    #[prost(message, optional, tag = "4")]
    pub description: Option<NodeDescription>,
    #[prost(string, optional, tag = "5")]
    pub address: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub data_path_address: Option<String>,
    #[prost(string, optional, tag = "7")]
    pub manager_address: Option<String>,
    #[prost(string, optional, tag = "8")]
    pub certificate: Option<String>,
    /// It is no Raft member any more: a node that is to be a worker now is one.
    #[prost(bool, tag = "20")]
    pub demoted: bool,
    #[prost(bytes = "vec", optional, tag = "21")]
    pub trust_digest: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "22")]
    pub issuer_digest: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RemoveNode {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(bool, tag = "2")]
    pub force: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct CreateService {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, required, tag = "2")]
    pub spec: ServiceSpec,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateService {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(uint64, tag = "2")]
    pub version: u64,
    #[prost(message, required, tag = "3")]
    pub spec: ServiceSpec,
    /// Swap spec and previous spec instead of taking `spec`.
    #[prost(bool, tag = "4")]
    pub rollback: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct RemoveService {
    #[prost(string, tag = "1")]
    pub id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct CreateNetwork {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, required, tag = "2")]
    pub spec: NetworkSpec,
}

#[derive(Clone, PartialEq, Message)]
pub struct RemoveNetwork {
    #[prost(string, tag = "1")]
    pub id: String,
}

/// What the leader's planners decided, applied as one. Steps whose premise is gone are skipped: the next round plans anew.
#[derive(Clone, PartialEq, Message)]
pub struct PlanTasks {
    #[prost(message, repeated, tag = "1")]
    pub steps: Vec<TaskStep>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TaskStep {
    #[prost(oneof = "TaskAction", tags = "1, 2, 3, 4, 5, 6, 7, 8, 12")]
    pub action: Option<TaskAction>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum TaskAction {
    /// Apply allocates its addresses; without one the task stays NEW, with the reason.
    #[prost(message, tag = "1")]
    Create(CreateTask),
    #[prost(message, tag = "2")]
    Assign(AssignTask),
    #[prost(message, tag = "3")]
    Desire(DesireTask),
    /// The scheduler's explanation for a task that stays pending.
    #[prost(message, tag = "4")]
    Explain(ExplainTask),
    #[prost(string, tag = "5")]
    Delete(String),
    #[prost(message, tag = "6")]
    UpdateStatus(SetUpdateStatus),
    /// Tries again to give a task its addresses that got none when it was made.
    #[prost(string, tag = "7")]
    Allocate(String),
    /// Gives up a task whose node has been down too long.
    #[prost(string, tag = "8")]
    Orphan(String),
    /// Rejects a task whose node no longer meets its constraints or lacks its resources.
    #[prost(string, tag = "12")]
    Evict(String),
}

#[derive(Clone, PartialEq, Message)]
pub struct CreateTask {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub service_id: String,
    #[prost(uint64, tag = "3")]
    pub slot: u64,
    #[prost(enumeration = "TaskState", tag = "4")]
    pub desired_state: i32,
    #[prost(int64, tag = "5")]
    pub start_not_before: Timestamp,
    /// Made by the service's update, whose failure it would be.
    #[prost(bool, tag = "6")]
    pub by_update: bool,
    /// A task of the slot that runs stays until this one does (start-first).
    #[prost(bool, tag = "7")]
    pub beside: bool,
    /// The node that the task is made for, if it is one of a service that has one on each; it has no slot then.
    #[prost(string, tag = "10")]
    pub node_id: String,
    /// Made for the sake of the spread.
    #[prost(bool, tag = "11")]
    pub moves: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct AssignTask {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub node_id: String,
    /// Generic resources of the node that become the task's.
    #[prost(message, repeated, tag = "10")]
    pub generic: Vec<GenericResource>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DesireTask {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(enumeration = "TaskState", tag = "2")]
    pub desired_state: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct ExplainTask {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub err: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetUpdateStatus {
    #[prost(string, tag = "1")]
    pub service_id: String,
    #[prost(message, optional, tag = "2")]
    pub status: Option<UpdateStatus>,
    /// Skipped if the service is no longer of this version; 0 = whatever it is.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// An update of so many slots begins.
    #[prost(uint64, optional, tag = "4")]
    pub begins: Option<u64>,
    /// Back to the previous spec, which is then gone.
    #[prost(bool, tag = "5")]
    pub rollback: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct ReportTasks {
    /// Reports about tasks of other nodes are ignored.
    #[prost(string, tag = "1")]
    pub node_id: String,
    #[prost(message, repeated, tag = "2")]
    pub reports: Vec<TaskReport>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TaskReport {
    #[prost(string, tag = "1")]
    pub task_id: String,
    #[prost(message, required, tag = "2")]
    pub status: TaskStatus,
}

/// Apply allocates the address; the answer carries it in [`Applied::address`].
#[derive(Clone, PartialEq, Message)]
pub struct CreateAttachment {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub node_id: String,
    /// Id or name.
    #[prost(string, tag = "3")]
    pub network: String,
    #[prost(string, repeated, tag = "4")]
    pub names: Vec<String>,
    /// A wished IPv4 address (`docker run --ip`), else empty.
    #[prost(string, tag = "5")]
    pub address: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateAttachment {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub node_id: String,
    #[prost(string, optional, tag = "3")]
    pub container_id: Option<String>,
    #[prost(bool, tag = "4")]
    pub remove: bool,
}

/// The answer of apply.
#[derive(Clone, PartialEq, Message)]
pub struct Applied {
    /// Raft index of the entry.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    #[prost(message, optional, tag = "2")]
    pub refused: Option<Refused>,
    #[prost(uint32, tag = "3")]
    pub node_index: u32,
    #[prost(uint64, tag = "4")]
    pub raft_id: u64,
    /// CIDR text.
    #[prost(string, tag = "5")]
    pub address: String,
}

/// Why a command changed nothing. `message` is Swarm's text, without the `rpc error: ...` prefix.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Refused {
    #[prost(enumeration = "Code", tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
}

/// gRPC status codes that the control API uses (the API maps them to HTTP as moby daemon/server/httpstatus does).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Code {
    Unknown = 0,
    InvalidArgument = 3,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Unavailable = 14,
}
