//! What a program knows about the packet in hand.

use skep_ebpf_common::{ASKED, COLUMNS, FlowKey, FlowValue, FragmentKey, PublishedValue};
use skep_ebpf_programs::mesh::Tally;
use skep_ebpf_programs::parse::{self, Headers, Tuple};

use crate::maps::WORK;
use crate::skb::Skb;

/// How an answer gets back to where the packet came from.
pub const BACK_PEER: u32 = 1;
pub const BACK_PLAIN: u32 = 2;
pub const BACK_MESH: u32 = 3;

/// Which task takes a packet of the mesh.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Decision {
    pub kind: u32,
    pub column: u32,
    /// Column of the task that would have opened a flow here; [`NO_COLUMN`]: none.
    pub here: u32,
}

/// No column at all.
pub const NO_COLUMN: u32 = u32::MAX;

#[repr(C)]
pub struct Work {
    pub headers: Headers,
    /// What the packet shall become.
    pub to: Tuple,
    pub key: FlowKey,
    pub value: FlowValue,
    pub fragment: FragmentKey,
    pub published: PublishedValue,
    pub row: [u16; COLUMNS],
    pub network: u32,
    pub mtu: u32,
    pub container: u32,
    pub now_s: u32,
    /// One of the `BACK_` values.
    pub back: u32,
    /// Who tells the sender of a packet that is too big.
    pub teller_be: u32,
    /// The sending endpoint's service.
    pub source_vip_be: u32,
    /// The sending container's address in the network of mesh flows; 0: none.
    pub ingress_be: u32,
    pub ingress_network: u32,
    /// Mesh: node the client came in through, how it came, how often the packet was sent on.
    pub entry: u32,
    pub origin: u32,
    pub hop: u32,
    /// `FLOW_` bits of a flow that the packet would open.
    pub flags: u32,
    /// Not 0: only ports that name the dialed address answer on it.
    pub dedicated: u32,
    /// Lower half of the flow's hash, and nodes that had the packet before: see `MeshHeader`.
    pub hash: u32,
    pub asked: [u8; ASKED],
    pub entry_asked: u8,
    /// `MESH_ASK` or `MESH_SETTLE`, or neither.
    pub quest: u8,
    pub decision: Decision,
    pub tally: Tally,
}

/// This CPU's room. Contents are left over from the packet before; `now_s` is set.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Work> {
    let pointer = WORK.get_ptr_mut(0)?;
    // SAFETY: a map value of the right type, used by one program run at a time (bottom halves are off).
    let work = unsafe { &mut *pointer };
    // SAFETY: helper without arguments; a coarse clock is enough for seconds.
    work.now_s = (unsafe { aya_ebpf::helpers::bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32;
    Some(work)
}

/// Reads the IPv4 headers into `work.headers`; 0: malformed. A function of its own, so that its stack is free again when
/// the rest runs.
#[inline(never)]
pub fn read_headers(skb: &mut Skb, work: &mut Work) -> u32 {
    match parse::ipv4(skb) {
        Some(headers) => {
            work.headers = headers;
            1
        }
        None => 0,
    }
}
