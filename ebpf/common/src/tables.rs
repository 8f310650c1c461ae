//! Keys and values of the tables that user space writes.

use crate::Address;

/// Value of `MARKS`: the node is gone, and its flows with it.
pub const MARK_GONE: u32 = 1;
/// Value of `MARKS`: its agent is away, its kernel is not. Nothing new goes there; what it has goes on.
pub const MARK_SILENT: u32 = 2;

/// Written into the programs' read-only data when they are loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    pub node: u32,
    pub vxlan_ifindex: u32,
    pub host_ifindex: u32,
    pub mesh_vni: u32,
    pub mesh_vni_forwarded: u32,
    pub resolver_be: u32,
    pub mesh_address_be: u32,
    /// MAC address of the node's end of its own veth pair.
    pub host_mac: [u8; 6],
    pub pad: u16,
}

/// `INTERFACES`: by ifindex.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct InterfaceValue {
    pub container: u32,
    pub network: u32,
    /// Network and address of the same container that mesh flows are translated to; 0 and none if it has no such.
    pub ingress_network: u32,
    pub spare: u32,
    pub ingress: Address,
}

/// `SOURCES`: the addresses a container may send with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct SourceKey {
    pub container: u32,
    pub address: Address,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SourceValue {
    pub network: u32,
    /// The VIP of the service this address stands behind; kept while the task drains.
    pub vip: Address,
}

/// `NetworkValue::flags`: no way out.
pub const NETWORK_INTERNAL: u32 = 1;
/// `NetworkValue::flags`: mesh flows are translated into this network.
pub const NETWORK_INGRESS: u32 = 2;

/// `NETWORKS`: by VNI.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NetworkValue {
    pub subnet: Address,
    pub mask: Address,
    pub gateway: Address,
    pub mtu: u32,
    pub flags: u32,
}

/// `ENDPOINTS`: who has an address in a network. VIPs stand there too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct EndpointKey {
    pub network: u32,
    pub address: Address,
}

/// `EndpointValue::kind`: a container's address.
pub const ENDPOINT_CONTAINER: u32 = 1;
/// `EndpointValue::kind`: a service's virtual address.
pub const ENDPOINT_VIP: u32 = 2;
/// `EndpointValue::flags`: it stands behind its VIP and takes new flows.
pub const ENDPOINT_SERVING: u32 = 1;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EndpointValue {
    pub kind: u32,
    pub flags: u32,
    pub node: u32,
    /// Host side of its veth; 0 on other nodes.
    pub ifindex: u32,
    /// Of a VIP: number of backends.
    pub backends: u32,
    pub spare: u32,
    pub vip: Address,
}

/// `BACKENDS`: the compact list of a VIP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct BackendKey {
    pub network: u32,
    pub slot: u32,
    pub vip: Address,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BackendValue {
    pub address: Address,
    pub node: u32,
    pub spare: u32,
}

/// `NODES`: by node index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NodeValue {
    pub underlay: Address,
    pub spare: [u32; 2],
}

/// `OwnAddressValue::flags`: an address of the swarm, not of this node alone.
pub const OWN_INGRESS: u32 = 1;
/// `OwnAddressValue::flags`: only ports that name the address answer on it.
pub const OWN_DEDICATED: u32 = 2;

/// `OWN_ADDRESSES`: by address, what clients may dial at this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct OwnAddressValue {
    /// Where packets with it as source leave; 0: wherever the route to the client leads.
    pub ifindex: u32,
    pub flags: u32,
    /// Of that interface, for the answers to ARP.
    pub mac: [u8; 6],
    pub pad: u16,
}

/// `HOLDERS`: by ingress address, who answers for it now. Written from the probes' thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HolderValue {
    /// 0: nobody known.
    pub node: u32,
    /// Second of CLOCK_MONOTONIC in which this was last said, see [`HOLDER_IS_OLD_S`].
    pub told_s: u32,
    /// Nanoseconds of CLOCK_MONOTONIC until which this node is the holder; 0: it is not.
    pub until_ns: u64,
}

/// Who holds an address is said again each second. When nobody has said it for so long, the agent of this node is down and knows of
/// no take-over: the node that a client's last packet came in through is the better way back to it.
pub const HOLDER_IS_OLD_S: u32 = 5;

/// How long the node's stack keeps an ingress address once its lease is over: the valid lifetime it is added with.
pub const STACK_KEEPS_NS: u64 = 10_000_000_000;

/// `LOCAL_ADDRESSES`: addresses on which the node's own sockets find published ports, beside the loopback.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LocalAddressValue {
    /// What is dialed instead.
    pub stand_in_be: u32,
    /// 1: outside clients find published ports there too. 0: an address on a bridge, say.
    pub outside: u32,
}

/// `PUBLISHED`: by protocol and port, and for a port that names its ingress address by that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PublishedKey {
    /// None: own addresses, and all ingress addresses that are not dedicated.
    pub address: Address,
    pub protocol: u16,
    pub port_be: u16,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PublishedValue {
    pub seed: u64,
    /// First row in `ROWS`. Swapped as a whole, so a packet sees the old table or the new one.
    pub rows_base: u32,
    pub rows_mask: u32,
    /// First task in `TASKS`.
    pub tasks_base: u32,
    pub tasks: u32,
    pub network: u32,
    pub algorithm: u32,
    pub target_port_be: u16,
    pub pad: u16,
    /// `PUBLISHED_` bits.
    pub flags: u32,
    /// Second of CLOCK_MONOTONIC in which the rows last changed; 0: they are the first.
    pub changed_s: u32,
    pub spare: u32,
}

/// How long after a change of rows a flow without handshake (UDP) may be older than they: as long as such a flow is
/// remembered.
pub const ROWS_ARE_NEW_S: u32 = 120;

/// `PublishedValue::flags`: replies leave from the task's node.
pub const PUBLISHED_DSR: u32 = 1;

/// Ranks whose order is part of the row algorithm.
pub const RANKS: usize = 3;
/// Columns of a row: the ranks, and a task on another node than all of them for the case that the nodes of all ranks are gone.
pub const COLUMNS: usize = 4;
/// An empty column.
pub const NO_TASK: u16 = u16::MAX;

/// `ROWS`: indexes of tasks relative to `tasks_base`, in order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Row {
    pub tasks: [u16; COLUMNS],
}

/// `TaskValue::flags`: keeps its flows, gets no new ones.
pub const TASK_DRAINING: u32 = 1;

/// `TASKS`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TaskValue {
    pub address: Address,
    pub node: u32,
    pub flags: u32,
}

/// Rows of all published ports together.
pub const MAX_ROWS: u32 = 1 << 20;
/// Tasks of all published ports together.
pub const MAX_TASKS: u32 = 1 << 16;

const _: () = assert!(size_of::<Config>() == 36);
const _: () = assert!(size_of::<InterfaceValue>() == 32);
const _: () = assert!(size_of::<EndpointKey>() == 20);
const _: () = assert!(size_of::<EndpointValue>() == 40);
const _: () = assert!(size_of::<NetworkValue>() == 56);
const _: () = assert!(size_of::<PublishedValue>() == 48);
const _: () = assert!(size_of::<Row>() == 8);
const _: () = assert!(size_of::<OwnAddressValue>() == 16);
const _: () = assert!(size_of::<HolderValue>() == 16);
const _: () = assert!(size_of::<PublishedKey>() == 20);

#[cfg(feature = "user")]
mod pod {
    use super::*;
    use crate::{FlowKey, FlowValue, FragmentKey, FragmentValue};

    macro_rules! pod {
        ($($name:ty),*) => { $(
            // SAFETY: repr(C), Copy, made of integers, without padding (sizes asserted where fields differ in width).
            unsafe impl aya::Pod for $name {}
        )* };
    }

    pod!(
        Address,
        Config,
        InterfaceValue,
        SourceKey,
        SourceValue,
        NetworkValue,
        EndpointKey,
        EndpointValue,
        BackendKey,
        BackendValue,
        NodeValue,
        OwnAddressValue,
        HolderValue,
        LocalAddressValue,
        PublishedKey,
        PublishedValue,
        Row,
        TaskValue,
        FlowKey,
        FlowValue,
        FragmentKey,
        FragmentValue
    );
}
