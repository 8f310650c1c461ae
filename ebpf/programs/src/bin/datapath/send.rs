//! Ways out of a program.

use aya_ebpf::bindings::{
    BPF_F_ZERO_CSUM_TX, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup,
    bpf_tunnel_key,
};
use aya_ebpf::helpers::{
    bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_set_tunnel_key,
};
use skep_ebpf_common::{
    Address, DropReason, EndpointKey, GATEWAY_MAC, MeshHeader, REDIRECT_NEIGH, REDIRECT_PEER, REDIRECT_PLAIN,
    REDIRECT_TUNNEL, endpoint_mac,
};
use skep_ebpf_programs::packet::{L3, Packet, Refused};
use skep_ebpf_programs::parse::Headers;

use crate::maps::{NODES, vxlan_ifindex};
use crate::skb::Skb;
use crate::verdict::{Code, REDIRECTED, drop};

/// Size of `bpf_tunnel_key` before its local address was added: accepted by every kernel.
const TUNNEL_KEY_SIZE: u32 = 28;

/// Address family of IPv4 (socket.h).
const AF_INET: u8 = 2;

#[inline(always)]
pub fn set_macs(skb: &mut Skb, destination: [u8; 6], source: [u8; 6]) -> Result<(), Refused> {
    let d = destination;
    let s = source;
    skb.store(
        0,
        &[
            d[0], d[1], d[2], d[3], d[4], d[5], s[0], s[1], s[2], s[3], s[4], s[5],
        ],
    )
}

/// Into the container behind a local endpoint's veth.
#[inline(always)]
pub fn to_local(skb: &mut Skb, address_be: u32, ifindex: u32) -> Code {
    if set_macs(skb, endpoint_mac(address_be), GATEWAY_MAC).is_err() {
        return drop(DropReason::RewriteFailed);
    }
    into_peer(skb, ifindex)
}

#[inline(always)]
pub fn into_peer(skb: &mut Skb, ifindex: u32) -> Code {
    skb.set_for_this_host();
    skb.set_note(1, REDIRECT_PEER);
    skb.set_note(2, ifindex);
    // SAFETY: helper; with flags 0 it cannot fail, and a vanished device only costs the packet.
    unsafe { bpf_redirect_peer(ifindex, 0) };
    REDIRECTED
}

/// Out of an interface, frame as it is.
#[inline(always)]
pub fn out_of(skb: &mut Skb, ifindex: u32) -> Code {
    skb.set_note(1, REDIRECT_PLAIN);
    skb.set_note(2, ifindex);
    // SAFETY: as above.
    unsafe { bpf_redirect(ifindex, 0) };
    REDIRECTED
}

/// Out of an interface, by the route and neighbour of the IP destination.
#[inline(always)]
pub fn to_neighbour(skb: &mut Skb, ifindex: u32) -> Code {
    skb.set_note(1, REDIRECT_NEIGH);
    skb.set_note(2, ifindex);
    // SAFETY: as above; no parameters: the kernel looks up the next hop.
    unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) };
    REDIRECTED
}

/// Outer address of a node, host order; 0: not in the tables.
#[inline(always)]
pub fn remote_of(node: u32) -> u32 {
    // SAFETY: plain numbers, written by user space as a whole.
    let peer = unsafe { NODES.get(node) };
    peer.and_then(|peer| peer.underlay.to_v4())
        .map_or(0, u32::from_be)
}

/// A packet of the mesh through the VXLAN device to a node.
#[inline(always)]
pub fn to_mesh_node(skb: &mut Skb, vni: u32, node: u32, header: MeshHeader) -> Code {
    let remote = remote_of(node);
    if remote == 0 {
        return drop(DropReason::DeadNode);
    }
    let (destination, source) = header.macs();
    if set_macs(skb, destination, source).is_err() {
        return drop(DropReason::RewriteFailed);
    }
    to_remote_node(skb, vni, remote)
}

/// Interface by which the route to `destination_be` leaves for a packet from `source_be`; 0: none, or the node itself.
#[inline(never)]
pub fn route(skb: &mut Skb, source_be: u32, destination_be: u32) -> u32 {
    // SAFETY: all zero is valid: no ports, no length, whose check is skipped then.
    let mut question: FibLookup = unsafe { core::mem::zeroed() };
    question.family = AF_INET;
    question.ifindex = skb.ifindex();
    question.__bindgen_anon_3.ipv4_src = source_be;
    question.__bindgen_anon_4.ipv4_dst = destination_be;
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: helper; the question has the size that it is told.
    let answer = unsafe { bpf_fib_lookup(skb.raw().cast(), &mut question, size, 0) };
    // A neighbour that is not known yet is found by the redirect.
    if answer == i64::from(BPF_FIB_LKUP_RET_SUCCESS) || answer == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) {
        question.ifindex
    } else {
        0
    }
}

/// Through the VXLAN device to a node's outer address. The inner MACs are set already.
#[inline(always)]
pub fn to_remote_node(skb: &mut Skb, vni: u32, remote: u32) -> Code {
    // SAFETY: all zero is a valid key.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = vni;
    key.__bindgen_anon_1.remote_ipv4 = remote;
    // SAFETY: the key is larger than the size given.
    let result = unsafe {
        bpf_skb_set_tunnel_key(
            skb.raw(),
            &mut key,
            TUNNEL_KEY_SIZE,
            u64::from(BPF_F_ZERO_CSUM_TX),
        )
    };
    if result != 0 {
        return drop(DropReason::RewriteFailed);
    }
    let ifindex = vxlan_ifindex();
    skb.set_note(1, REDIRECT_TUNNEL);
    skb.set_note(2, ifindex);
    skb.set_note(3, vni);
    skb.set_note(4, remote);
    // SAFETY: as above.
    unsafe { bpf_redirect(ifindex, 0) };
    REDIRECTED
}

/// Would a node refuse this packet, or cut it to pieces at a ruinous price? Without the sender's leave to fragment, or
/// with segments that are too big, it must be told; a single datagram that may be fragmented may go.
#[inline(always)]
pub fn is_too_big(skb: &Skb, headers: &Headers, mtu: u32) -> bool {
    let segment = skb.segment_size();
    if segment != 0 {
        return segment + u32::from(headers.l4) - L3 as u32 + u32::from(headers.l4_header) > mtu;
    }
    headers.dont_fragment != 0 && u32::from(headers.length) > mtu
}

#[inline(always)]
pub fn endpoint_key(network: u32, address_be: u32) -> EndpointKey {
    EndpointKey {
        network,
        address: Address::v4(address_be),
    }
}
