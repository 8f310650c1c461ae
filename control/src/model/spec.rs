//! What users ask for (`…Spec`): the bodies of the Engine API as stored, without filled-in defaults.

use std::collections::BTreeMap;

use prost::{Enumeration, Message, Oneof};

use super::update::{HealthConfig, UpdateConfig};

/// Durations are nanoseconds, as in the Engine API.
pub type Nanos = i64;

#[derive(Clone, PartialEq, Message)]
pub struct Annotations {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ServiceSpec {
    #[prost(message, required, tag = "1")]
    pub annotations: Annotations,
    #[prost(message, required, tag = "2")]
    pub task: TaskSpec,
    #[prost(oneof = "ServiceMode", tags = "3, 4, 9, 10")]
    pub mode: Option<ServiceMode>,
    #[prost(message, optional, tag = "5")]
    pub endpoint: Option<EndpointSpec>,
    /// `ServiceSpec.Networks`, dead since API 1.44; used when `task.networks` is empty.
    #[prost(message, repeated, tag = "6")]
    pub networks: Vec<NetworkAttachmentConfig>,
    #[prost(message, optional, tag = "7")]
    pub update: Option<UpdateConfig>,
    #[prost(message, optional, tag = "8")]
    pub rollback: Option<UpdateConfig>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum ServiceMode {
    #[prost(message, tag = "3")]
    Replicated(ReplicatedMode),
    #[prost(message, tag = "4")]
    Global(GlobalMode),
    #[prost(message, tag = "9")]
    ReplicatedJob(ReplicatedJob),
    #[prost(message, tag = "10")]
    GlobalJob(GlobalJob),
}

#[derive(Clone, PartialEq, Message)]
pub struct ReplicatedMode {
    #[prost(uint64, optional, tag = "1")]
    pub replicas: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GlobalMode {}

/// Tasks that run to their end, one in each slot from 0 to `total_completions` - 1.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReplicatedJob {
    /// Tasks at a time.
    #[prost(uint64, tag = "1")]
    pub max_concurrent: u64,
    #[prost(uint64, tag = "2")]
    pub total_completions: u64,
}

/// One task that runs to its end on every fitting node.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GlobalJob {}

#[derive(Clone, PartialEq, Message)]
pub struct TaskSpec {
    #[prost(message, required, tag = "1")]
    pub container: ContainerSpec,
    #[prost(message, optional, tag = "2")]
    pub resources: Option<ResourceRequirements>,
    #[prost(message, optional, tag = "3")]
    pub restart: Option<RestartPolicy>,
    #[prost(message, optional, tag = "4")]
    pub placement: Option<Placement>,
    #[prost(message, repeated, tag = "5")]
    pub networks: Vec<NetworkAttachmentConfig>,
    #[prost(message, optional, tag = "6")]
    pub log_driver: Option<LogDriver>,
    #[prost(uint64, tag = "7")]
    pub force_update: u64,
    #[prost(string, optional, tag = "8")]
    pub runtime: Option<String>,
}

/// moby api/types/swarm/container.go.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerSpec {
    #[prost(string, tag = "1")]
    pub image: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: BTreeMap<String, String>,
    /// The entry point.
    #[prost(string, repeated, tag = "3")]
    pub command: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub args: Vec<String>,
    #[prost(string, optional, tag = "5")]
    pub hostname: Option<String>,
    #[prost(string, repeated, tag = "6")]
    pub env: Vec<String>,
    #[prost(string, optional, tag = "7")]
    pub dir: Option<String>,
    #[prost(string, optional, tag = "8")]
    pub user: Option<String>,
    #[prost(string, repeated, tag = "9")]
    pub groups: Vec<String>,
    #[prost(bool, tag = "10")]
    pub tty: bool,
    #[prost(bool, tag = "11")]
    pub open_stdin: bool,
    #[prost(bool, tag = "12")]
    pub read_only: bool,
    #[prost(string, optional, tag = "13")]
    pub stop_signal: Option<String>,
    #[prost(int64, optional, tag = "14")]
    pub stop_grace_period: Option<Nanos>,
    /// `IP name alias...`, as the API has them.
    #[prost(string, repeated, tag = "15")]
    pub hosts: Vec<String>,
    #[prost(message, optional, tag = "16")]
    pub dns: Option<DnsConfig>,
    #[prost(bool, optional, tag = "17")]
    pub init: Option<bool>,
    #[prost(message, repeated, tag = "18")]
    pub mounts: Vec<Mount>,
    #[prost(btree_map = "string, string", tag = "19")]
    pub sysctls: BTreeMap<String, String>,
    #[prost(string, repeated, tag = "20")]
    pub capability_add: Vec<String>,
    #[prost(string, repeated, tag = "21")]
    pub capability_drop: Vec<String>,
    #[prost(message, repeated, tag = "22")]
    pub ulimits: Vec<Ulimit>,
    #[prost(string, optional, tag = "23")]
    pub isolation: Option<String>,
    /// `X-Registry-Auth` of the create or update (PullOptions in swarmkit); never returned by the API.
    #[prost(string, optional, tag = "24")]
    pub registry_auth: Option<String>,
    #[prost(message, optional, tag = "25")]
    pub healthcheck: Option<HealthConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DnsConfig {
    #[prost(string, repeated, tag = "1")]
    pub nameservers: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub search: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub options: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    /// `bind`, `volume` or `tmpfs`.
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub source: String,
    #[prost(string, tag = "3")]
    pub target: String,
    #[prost(bool, tag = "4")]
    pub read_only: bool,
    #[prost(string, optional, tag = "5")]
    pub bind_propagation: Option<String>,
    #[prost(bool, tag = "6")]
    pub volume_no_copy: bool,
    #[prost(btree_map = "string, string", tag = "7")]
    pub volume_labels: BTreeMap<String, String>,
    #[prost(string, optional, tag = "8")]
    pub volume_driver: Option<String>,
    #[prost(btree_map = "string, string", tag = "9")]
    pub volume_driver_options: BTreeMap<String, String>,
    /// Bytes.
    #[prost(int64, optional, tag = "10")]
    pub tmpfs_size: Option<i64>,
    #[prost(uint32, optional, tag = "11")]
    pub tmpfs_mode: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Ulimit {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int64, tag = "2")]
    pub soft: i64,
    #[prost(int64, tag = "3")]
    pub hard: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct ResourceRequirements {
    #[prost(message, optional, tag = "1")]
    pub limits: Option<Limit>,
    #[prost(message, optional, tag = "2")]
    pub reservations: Option<Resources>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Limit {
    #[prost(int64, tag = "1")]
    pub nano_cpus: i64,
    /// Bytes.
    #[prost(int64, tag = "2")]
    pub memory: i64,
    #[prost(int64, tag = "3")]
    pub pids: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Resources {
    #[prost(int64, tag = "1")]
    pub nano_cpus: i64,
    /// Bytes.
    #[prost(int64, tag = "2")]
    pub memory: i64,
    /// What a task asks for is always an amount.
    #[prost(message, repeated, tag = "3")]
    pub generic: Vec<GenericResource>,
}

/// A resource that the user defined (`dockerd --node-generic-resource`): an amount (`SSD=3`), or one thing with a name
/// (`GPU=UUID-1`; several of a kind are several records). swarmkit api/types.proto GenericResource.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GenericResource {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// Of a resource without a name.
    #[prost(int64, tag = "3")]
    pub amount: i64,
}

/// Absent fields mean Swarm's defaults: condition any, delay 5 s, attempts without limit, window 0.
#[derive(Clone, PartialEq, Message)]
pub struct RestartPolicy {
    /// `none`, `on-failure` or `any`.
    #[prost(string, optional, tag = "1")]
    pub condition: Option<String>,
    #[prost(int64, optional, tag = "2")]
    pub delay: Option<Nanos>,
    #[prost(uint64, optional, tag = "3")]
    pub max_attempts: Option<u64>,
    #[prost(int64, optional, tag = "4")]
    pub window: Option<Nanos>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Placement {
    #[prost(string, repeated, tag = "1")]
    pub constraints: Vec<String>,
    /// Descriptors of `spread=` preferences, outermost first.
    #[prost(string, repeated, tag = "2")]
    pub spread: Vec<String>,
    #[prost(uint64, tag = "3")]
    pub max_replicas: u64,
    #[prost(message, repeated, tag = "4")]
    pub platforms: Vec<Platform>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct Platform {
    #[prost(string, tag = "1")]
    pub architecture: String,
    #[prost(string, tag = "2")]
    pub os: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct NetworkAttachmentConfig {
    /// Network id once stored (the API resolves names).
    #[prost(string, tag = "1")]
    pub target: String,
    #[prost(string, repeated, tag = "2")]
    pub aliases: Vec<String>,
    #[prost(btree_map = "string, string", tag = "3")]
    pub driver_opts: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct LogDriver {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct EndpointSpec {
    /// `vip` (default) or `dnsrr`.
    #[prost(string, optional, tag = "1")]
    pub mode: Option<String>,
    #[prost(message, repeated, tag = "2")]
    pub ports: Vec<PortConfig>,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Message)]
pub struct PortConfig {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(enumeration = "Protocol", tag = "2")]
    pub protocol: i32,
    #[prost(uint32, tag = "3")]
    pub target_port: u32,
    /// 0 in a spec: choose one (30000 to 32767 for ingress).
    #[prost(uint32, tag = "4")]
    pub published_port: u32,
    #[prost(enumeration = "PublishMode", tag = "5")]
    pub publish_mode: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Protocol {
    Tcp = 0,
    Udp = 1,
    Sctp = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum PublishMode {
    Ingress = 0,
    Host = 1,
}

#[derive(Clone, PartialEq, Message)]
pub struct NodeSpec {
    #[prost(message, required, tag = "1")]
    pub annotations: Annotations,
    #[prost(enumeration = "Role", tag = "2")]
    pub role: i32,
    #[prost(enumeration = "Availability", tag = "3")]
    pub availability: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Role {
    Worker = 0,
    Manager = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Availability {
    Active = 0,
    Pause = 1,
    Drain = 2,
}

#[derive(Clone, PartialEq, Message)]
pub struct NetworkSpec {
    #[prost(message, required, tag = "1")]
    pub annotations: Annotations,
    #[prost(message, optional, tag = "2")]
    pub driver: Option<DriverConfig>,
    #[prost(bool, tag = "3")]
    pub ipv6: bool,
    #[prost(bool, tag = "4")]
    pub internal: bool,
    #[prost(bool, tag = "5")]
    pub attachable: bool,
    #[prost(bool, tag = "6")]
    pub ingress: bool,
    #[prost(message, optional, tag = "7")]
    pub ipam: Option<IpamOptions>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DriverConfig {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct IpamOptions {
    #[prost(message, optional, tag = "1")]
    pub driver: Option<DriverConfig>,
    #[prost(message, repeated, tag = "2")]
    pub configs: Vec<IpamConfig>,
}

/// Texts as the user wrote them; validated on create.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct IpamConfig {
    #[prost(string, tag = "1")]
    pub subnet: String,
    #[prost(string, tag = "2")]
    pub range: String,
    #[prost(string, tag = "3")]
    pub gateway: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ClusterSpec {
    #[prost(message, required, tag = "1")]
    pub annotations: Annotations,
    /// Default 5, the live task included; negative keeps all.
    #[prost(int64, optional, tag = "2")]
    pub task_history_limit: Option<i64>,
    #[prost(uint64, optional, tag = "3")]
    pub snapshot_interval: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub keep_old_snapshots: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub log_entries_for_slow_followers: Option<u64>,
    #[prost(int64, optional, tag = "6")]
    pub heartbeat_period: Option<Nanos>,
    #[prost(int64, optional, tag = "7")]
    pub node_cert_expiry: Option<Nanos>,
    #[prost(message, optional, tag = "8")]
    pub task_log_driver: Option<LogDriver>,
    #[prost(bool, tag = "9")]
    pub auto_lock_managers: bool,
    /// A new number asks for a new root.
    #[prost(uint64, tag = "20")]
    pub force_rotate: u64,
}
