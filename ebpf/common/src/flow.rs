//! One entry per translated flow, found from both directions.
//!
//! A VIP flow lives on the client's node. Both directions know the VIP (the task's endpoint names its service's), so its key
//! is the tuple the client dialed: exact, without collisions, and independent of the list of tasks. A mesh flow lives on
//! the task's node; its reply knows only the translated tuple, so that is its key, and forward packets try their ranks.

use crate::Address;

/// `FlowKey::kind`: a service's VIP; `server` is the VIP and the port dialed.
pub const FLOW_VIP: u8 = 1;
/// `FlowKey::kind`: a published port; `server` is the task and its port.
pub const FLOW_MESH: u8 = 2;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct FlowKey {
    pub network: u32,
    pub protocol: u8,
    pub kind: u8,
    pub pad: u16,
    pub client: Address,
    pub server: Address,
    pub client_port_be: u16,
    pub server_port_be: u16,
}

/// `forward`/`reverse` bit: a packet that is not a SYN was seen. In `reverse`: the task answered.
pub const SEEN: u8 = 1;
/// `forward`/`reverse` bit: this side closed.
pub const FIN: u8 = 2;
/// `forward`/`reverse` bit: this side reset.
pub const RST: u8 = 4;

/// `FlowValue::origin`: the client came in by an uplink of the return node.
pub const ORIGIN_UPLINK: u8 = 1;
/// `FlowValue::origin`: the client is the return node itself.
pub const ORIGIN_HOST: u8 = 2;

/// `FlowValue::flags`: replies leave from the task's node.
pub const FLOW_DSR: u8 = 1;
/// `FlowValue::flags`: an ingress address was dialed; replies leave through whoever holds it.
pub const FLOW_INGRESS: u8 = 2;
/// `FlowValue::flags`: no flow of this node's task, which is only first in a table newer than the flow: another one has it.
pub const FLOW_ELSEWHERE: u8 = 4;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowValue {
    /// What the client dialed.
    pub dialed: Address,
    /// Where it went.
    pub task: Address,
    pub dialed_port_be: u16,
    pub task_port_be: u16,
    /// Each direction writes its own byte, so that two CPUs never undo each other's bits.
    pub forward: u8,
    pub reverse: u8,
    pub origin: u8,
    /// `FLOW_` bits.
    pub flags: u8,
    /// Node the client's last packet came in through.
    pub return_node: u32,
    /// Seconds of CLOCK_MONOTONIC.
    pub last_seen_s: u32,
    pub spare: [u32; 2],
}

/// Ports of a fragmented datagram, from its first fragment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct FragmentKey {
    pub network: u32,
    pub source: Address,
    pub destination: Address,
    pub id_be: u16,
    pub protocol: u16,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentValue {
    pub source_port_be: u16,
    pub destination_port_be: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 44);
const _: () = assert!(size_of::<FlowValue>() == 56);
const _: () = assert!(size_of::<FragmentKey>() == 40);
