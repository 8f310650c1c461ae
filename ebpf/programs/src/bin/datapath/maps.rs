//! The maps, pinned by name, and the constants the loader writes.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use skep_ebpf_common::*;

use crate::work::Work;

#[map]
pub static INTERFACES: HashMap<u32, InterfaceValue> = HashMap::pinned(16_384, BPF_F_NO_PREALLOC);
#[map]
pub static SOURCES: HashMap<SourceKey, SourceValue> = HashMap::pinned(16_384, BPF_F_NO_PREALLOC);
#[map]
pub static NETWORKS: HashMap<u32, NetworkValue> = HashMap::pinned(16_384, BPF_F_NO_PREALLOC);
#[map]
pub static ENDPOINTS: HashMap<EndpointKey, EndpointValue> = HashMap::pinned(262_144, BPF_F_NO_PREALLOC);
#[map]
pub static BACKENDS: HashMap<BackendKey, BackendValue> = HashMap::pinned(262_144, BPF_F_NO_PREALLOC);
#[map]
pub static NODES: HashMap<u32, NodeValue> = HashMap::pinned(16_384, BPF_F_NO_PREALLOC);
/// Outer source address to node index.
#[map]
pub static PEERS: HashMap<Address, u32> = HashMap::pinned(16_384, BPF_F_NO_PREALLOC);
/// Nodes that are gone. Written from the probes' thread.
#[map]
pub static MARKS: HashMap<u32, u32> = HashMap::pinned(16_384, BPF_F_NO_PREALLOC);
#[map]
pub static HOLDERS: HashMap<Address, HolderValue> = HashMap::pinned(1024, BPF_F_NO_PREALLOC);
/// Addresses of this node and of the swarm.
#[map]
pub static OWN_ADDRESSES: HashMap<Address, OwnAddressValue> = HashMap::pinned(1024, BPF_F_NO_PREALLOC);
#[map]
pub static LOCAL_ADDRESSES: HashMap<Address, LocalAddressValue> = HashMap::pinned(4096, BPF_F_NO_PREALLOC);
#[map]
pub static PUBLISHED: HashMap<PublishedKey, PublishedValue> = HashMap::pinned(16_384, BPF_F_NO_PREALLOC);
#[map]
pub static ROWS: Array<Row> = Array::pinned(MAX_ROWS, 0);
#[map]
pub static TASKS: Array<TaskValue> = Array::pinned(MAX_TASKS, 0);
/// Established flows: never evicted by new ones.
#[map]
pub static FLOWS: HashMap<FlowKey, FlowValue> = HashMap::pinned(131_072, 0);
/// Flows whose client has not shown yet that it hears the task: floods evict only each other.
#[map]
pub static HALF_OPEN: LruHashMap<FlowKey, FlowValue> = LruHashMap::pinned(16_384, 0);
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> = LruHashMap::pinned(8_192, 0);
/// Tables of another layout while its flows move to these: see `flows::find`. Else they are empty, and nobody looks.
#[map]
pub static FLOWS_BEFORE: HashMap<FlowKey, FlowValue> = HashMap::with_max_entries(1, 0);
#[map]
pub static HALF_OPEN_BEFORE: HashMap<FlowKey, FlowValue> = HashMap::with_max_entries(1, 0);
#[map]
pub static FRAGMENTS_BEFORE: HashMap<FragmentKey, FragmentValue> = HashMap::with_max_entries(1, 0);
/// 1: the programs of this layout work; while flows move and it is 0, those before them do.
#[map]
pub static GATE: Array<u32> = Array::pinned(1, 0);
/// Second in which the table of established flows had no room last.
#[map]
pub static PRESSURE: Array<u32> = Array::pinned(1, 0);
#[map]
pub static DROPS: PerCpuArray<u64> = PerCpuArray::pinned(DROP_SLOTS, 0);
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(COUNTER_SLOTS, 0);
/// Room for what does not fit on 512 bytes of stack. A program is never preempted by another one on its CPU.
#[map]
pub static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

#[unsafe(no_mangle)]
static NODE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static VXLAN_IFINDEX: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static HOST_IFINDEX: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static MESH_VNI: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static MESH_VNI_FORWARDED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static RESOLVER_BE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static MESH_ADDRESS_BE: Global<u32> = Global::new(0);
/// Flows move here from another layout.
#[unsafe(no_mangle)]
static MOVING: Global<u32> = Global::new(0);
/// Programs of another layout are behind these: they work until `GATE` opens.
#[unsafe(no_mangle)]
static GATED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static HOST_MAC: Global<[u8; 6]> = Global::new([0; 6]);

macro_rules! constant {
    ($function:ident, $name:ident, $type:ty) => {
        #[inline(always)]
        pub fn $function() -> $type {
            $name.load()
        }
    };
}

constant!(node, NODE, u32);
constant!(vxlan_ifindex, VXLAN_IFINDEX, u32);
constant!(host_ifindex, HOST_IFINDEX, u32);
constant!(mesh_vni, MESH_VNI, u32);
constant!(mesh_vni_forwarded, MESH_VNI_FORWARDED, u32);
constant!(resolver_be, RESOLVER_BE, u32);
constant!(mesh_address_be, MESH_ADDRESS_BE, u32);
constant!(moving, MOVING, u32);
constant!(gated, GATED, u32);
/// Does the node's own traffic, or its replies, carry this address in place of one of the node's or the swarm's?
#[inline(always)]
pub fn is_of_host(address_be: u32) -> bool {
    address_be == mesh_address_be() || is_stand_in(address_be)
}

constant!(host_mac, HOST_MAC, [u8; 6]);

/// Do the probes miss this node? Nothing new goes there.
#[inline(always)]
pub fn is_marked(node: u32) -> bool {
    // SAFETY: only its presence matters.
    unsafe { MARKS.get(node) }.is_some()
}

/// Is it gone, with all that it had? If its agent alone is away, it goes on with its flows.
#[inline(always)]
pub fn is_gone(node: u32) -> bool {
    // SAFETY: a plain number.
    unsafe { MARKS.get(node) }.is_some_and(|mark| *mark != MARK_SILENT)
}
