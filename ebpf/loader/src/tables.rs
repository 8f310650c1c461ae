//! What the data plane is told: plain tables, level-triggered, with no knowledge of services' history or of Raft.
//!
//! [`crate::Datapath::sync`] makes the kernel's maps equal to a [`Tables`] value. Order inside the vectors has no meaning.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::IpNet;

/// What stays the same for the life of a node's data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatapathConfig {
    /// Directory on a bpffs that belongs to this node alone; made if it is missing.
    pub pin_dir: PathBuf,
    /// The flow-based VXLAN device (`external nolearning`), in the caller's network namespace.
    pub vxlan_ifindex: u32,
    /// `skep1`: the end of the node's own veth pair that carries `from_host`.
    pub host_ifindex: u32,
    /// `skep0`: the end the node's stack sends to and receives from.
    pub host_peer_ifindex: u32,
    /// This node's committed index.
    pub node_index: u32,
    /// VNI of mesh packets on their first hop.
    pub mesh_vni: u32,
    /// VNI of mesh packets that were forwarded once already.
    pub mesh_vni_forwarded: u32,
    /// Address of the node's DNS resolver; always reachable from containers.
    pub resolver: Ipv4Addr,
    /// Link-local address that stands for "a published port of this node" in the node's own traffic.
    pub mesh_address: Ipv4Addr,
    /// Size of the table of established flows (half-open ones have a table of their own of an eighth of this).
    pub max_flows: u32,
}

/// Everything the kernel's tables hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    pub nodes: Vec<NodeEntry>,
    pub uplinks: Vec<UplinkEntry>,
    /// Addresses of this node beside those of its uplinks and the loopback: its own sockets find published ports there too.
    pub other_addresses: Vec<IpAddr>,
    pub networks: Vec<NetworkEntry>,
    pub endpoints: Vec<EndpointEntry>,
    pub services: Vec<ServiceEntry>,
    pub published: Vec<PublishedEntry>,
    pub ingress: Vec<IngressEntry>,
}

/// An address of the swarm on which published ports answer on whatever node its packets reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngressEntry {
    pub address: IpAddr,
    /// Interface of this node that carries it: ARP for it is answered there while this node holds it. 0: none, this node cannot hold it.
    pub ifindex: u32,
    /// Only ports that name the address answer on it.
    pub dedicated: bool,
}

/// How a published port's packets travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IngressMode {
    /// Replies go back through the node the client came in through.
    #[default]
    Mesh,
    /// Replies leave from the task's node.
    Dsr,
    /// Only tasks of the node the client came in through.
    Local,
}

/// A node of the swarm, this one included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    pub index: u32,
    /// Outer address of its VXLAN packets.
    pub underlay: IpAddr,
}

/// An interface through which outside clients reach this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkEntry {
    pub ifindex: u32,
    /// The node's own addresses on which published ports answer.
    pub addresses: Vec<IpAddr>,
}

/// An overlay network (or the ingress network).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkEntry {
    /// 4096 and above, below 2^24.
    pub vni: u32,
    pub subnet: IpNet,
    pub gateway: IpAddr,
    /// Largest IP packet, in bytes, that containers of this network may send to another node.
    pub mtu: u32,
    /// No way to the outside; the resolver stays reachable.
    pub internal: bool,
    /// The network that mesh flows are translated into.
    pub ingress: bool,
}

/// An address of a task or container in one network, on any node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointEntry {
    pub vni: u32,
    pub address: IpAddr,
    /// Index of the node it lives on.
    pub node: u32,
    /// Set for endpoints of this node.
    pub local: Option<LocalEndpoint>,
}

/// Where a local endpoint is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// Host side of its veth.
    pub ifindex: u32,
    /// Shared by all endpoints of one container, and by no other's; not 0.
    pub container: u32,
}

/// A service's virtual address in one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    pub vni: u32,
    pub vip: IpAddr,
    /// Addresses of its running tasks in that network. Empty: clients are refused at once.
    pub backends: Vec<IpAddr>,
}

/// A port published on every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedEntry {
    pub protocol: Protocol,
    pub published_port: u16,
    pub target_port: u16,
    /// Same on every node: from the service's record.
    pub seed: u64,
    /// Base-2 logarithm of the number of rows; 4 to 14.
    pub rows_log2: u8,
    /// Version of the row algorithm: [`crate::rows::ALGORITHM`] is the only one yet.
    pub algorithm: u32,
    /// VNI of the ingress network the tasks' addresses belong to.
    pub ingress_vni: u32,
    pub mode: IngressMode,
    /// The (dedicated) ingress address it answers on; `None`: own addresses and all ingress addresses that are not dedicated.
    pub ingress_address: Option<IpAddr>,
    /// Empty: clients are refused at once.
    pub tasks: Vec<PublishedTask>,
}

/// A task behind a published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedTask {
    /// 64-bit hash of the task's id, the same on every node.
    pub task_hash: u64,
    /// Its address in the ingress network.
    pub address: IpAddr,
    /// Index of the node it runs on.
    pub node: u32,
    /// It keeps the flows it has and gets no new ones.
    pub draining: bool,
}

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

/// What one [`crate::Datapath::sync`] changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Map entries written because they were missing or different.
    pub written: usize,
    /// Map entries removed.
    pub removed: usize,
    /// Interfaces a program was attached to.
    pub attached: Vec<u32>,
    /// Interfaces a program was detached from.
    pub detached: Vec<u32>,
    /// Interfaces that could not be attached (typically: the veth is gone already), with the reason. Try again with the next sync.
    pub failed: Vec<(u32, String)>,
    /// Published ports whose tables could not be made, with the reason. What stood for them before stays.
    pub refused: Vec<(u16, String)>,
    /// What the node's own sockets do without, because programs on them could not be attached. Try again with the next sync.
    pub sockets: Vec<SocketProblem>,
}

/// Programs on the node's own sockets that are not at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketProblem {
    /// The loopback and own addresses do not lead to published ports.
    NotDialed(String),
    /// Nothing keeps other processes from published ports while the agent is away.
    NotGuarded(String),
}

impl fmt::Display for SocketProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketProblem::NotDialed(reason) => write!(
                f,
                "published ports do not answer this node's own processes, neither on the loopback nor on its addresses: {reason}"
            ),
            SocketProblem::NotGuarded(reason) => write!(
                f,
                "only the agent's sockets keep other processes from published ports: {reason}"
            ),
        }
    }
}

/// Packets by verdict, summed over all programs. `received` = `passed` + `redirected` + `dropped`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub received: u64,
    pub passed: u64,
    pub redirected: u64,
    pub dropped: u64,
}

/// How full the flow tables are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowUsage {
    pub established: TableUsage,
    pub half_open: TableUsage,
}

/// How full a table is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableUsage {
    pub used: u64,
    pub limit: u32,
    /// Kernel memory it has, full or empty.
    pub bytes: u64,
}

/// What one [`crate::FlowTables::collect`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowReport {
    pub established: u64,
    pub half_open: u64,
    pub expired: u64,
}
