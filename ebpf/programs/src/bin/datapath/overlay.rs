//! What other nodes send.

use aya_ebpf::bindings::bpf_tunnel_key;
use aya_ebpf::helpers::bpf_skb_get_tunnel_key;
use skep_ebpf_common::{
    Address, DropReason, FLOW_INGRESS, MESH_ASK, MESH_DEDICATED, MESH_ENTRY_ASKED, MESH_FORWARD,
    MESH_INGRESS, MESH_REPLY, MESH_SETTLE, MeshHeader, ORIGIN_HOST, ORIGIN_UPLINK,
};
use skep_ebpf_programs::parse::{self, ETHERTYPE_IPV4, Ethernet};
use skep_ebpf_programs::translate::translate;

use crate::maps::{ENDPOINTS, NETWORKS, PEERS, is_of_host, mesh_vni, mesh_vni_forwarded};
use crate::send::{endpoint_key, to_local};
use crate::skb::Skb;
use crate::verdict::{Code, drop, refuse};
use crate::work::{BACK_MESH, Work, read_headers};
use crate::{flows, mesh, vip};

#[inline(always)]
pub fn run(skb: &mut Skb, work: &mut Work) -> Code {
    // SAFETY: all zero is a valid key, and the helper fills 28 bytes of it.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    // SAFETY: as above.
    if unsafe { bpf_skb_get_tunnel_key(skb.raw(), &mut key, 28, 0) } != 0 {
        return drop(DropReason::UnknownPeer);
    }
    // SAFETY: an IPv4 underlay; the helper gives host order.
    let remote_be = unsafe { key.__bindgen_anon_1.remote_ipv4 }.to_be();
    // SAFETY, here and below: plain numbers that user space replaces as a whole.
    let Some(peer) = (unsafe { PEERS.get(Address::v4(remote_be)) }) else {
        return drop(DropReason::UnknownPeer);
    };
    let peer = *peer;
    let vni = key.tunnel_id;
    let Some(ethernet) = parse::ethernet(skb) else {
        return drop(DropReason::Malformed);
    };
    if ethernet.ethertype != ETHERTYPE_IPV4 {
        return drop(DropReason::UnsupportedProtocol);
    }
    if read_headers(skb, work) == 0 {
        return drop(DropReason::Malformed);
    }
    if vni == mesh_vni() || vni == mesh_vni_forwarded() {
        return from_mesh(skb, work, &ethernet, vni == mesh_vni(), peer);
    }
    work.network = vni;
    from_network(skb, work, peer)
}

#[inline(never)]
fn from_network(skb: &mut Skb, work: &mut Work, peer: u32) -> Code {
    if unsafe { NETWORKS.get(work.network) }.is_none() {
        return drop(DropReason::UnknownNetwork);
    }
    let destination_be = work.headers.destination_be;
    let source_be = work.headers.source_be;
    let Some(destination) = (unsafe { ENDPOINTS.get(endpoint_key(work.network, destination_be)) }) else {
        return drop(DropReason::NoSuchEndpoint);
    };
    let ifindex = destination.ifindex;
    if ifindex == 0 {
        return drop(DropReason::NotLocal);
    }
    match unsafe { ENDPOINTS.get(endpoint_key(work.network, source_be)) } {
        Some(source) if source.node == peer => work.source_vip_be = source.vip.to_v4().unwrap_or(0),
        // The error of a router on the way, our own too-big answers among them.
        None if work.headers.form == parse::FORM_ERROR => work.source_vip_be = 0,
        _ => return drop(DropReason::PeerSpoofed),
    }
    if !flows::fragment_ports(work) {
        return drop(DropReason::FragmentUnknown);
    }
    if work.source_vip_be != 0 && vip::reverse(work) && translate(skb, &work.headers, &work.to).is_err() {
        return drop(DropReason::RewriteFailed);
    }
    to_local(skb, destination_be, ifindex)
}

/// The inner MACs say where the packet is on its way.
#[inline(never)]
fn from_mesh(skb: &mut Skb, work: &mut Work, ethernet: &Ethernet, first_hop: bool, peer: u32) -> Code {
    let Some(header) = MeshHeader::read(ethernet.destination, ethernet.source) else {
        return drop(DropReason::Malformed);
    };
    if header.kind == MESH_REPLY {
        let (source_be, client_be) = (work.headers.source_be, work.headers.destination_be);
        return mesh::leave(skb, source_be, client_be);
    }
    if header.kind != MESH_FORWARD {
        return drop(DropReason::Malformed);
    }
    let (entry, hop) = (header.node, header.hop);
    if (first_hop && (hop != 1 || entry != peer)) || hop == 0 || hop > skep_ebpf_programs::mesh::MAX_HOPS {
        return drop(DropReason::MeshLoop);
    }
    work.entry = entry;
    work.hop = u32::from(hop);
    work.back = BACK_MESH;
    let ingress = header.flags & MESH_INGRESS != 0;
    work.flags = if ingress { u32::from(FLOW_INGRESS) } else { 0 };
    work.dedicated = u32::from(header.flags & MESH_DEDICATED);
    work.asked = header.asked;
    work.entry_asked = header.flags & MESH_ENTRY_ASKED;
    work.quest = header.flags & (MESH_ASK | MESH_SETTLE);
    let from_host = is_of_host(work.headers.tuple.destination_be);
    work.origin = u32::from(if from_host { ORIGIN_HOST } else { ORIGIN_UPLINK });
    work.network = 0;
    if !flows::fragment_ports(work) {
        return drop(DropReason::FragmentUnknown);
    }
    if !mesh::look_up(work) {
        return refuse(DropReason::NoBackend);
    }
    mesh::forward(skb, work)
}
