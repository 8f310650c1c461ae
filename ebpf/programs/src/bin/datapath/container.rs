//! What a container sends.

use skep_ebpf_common::{Address, DropReason, ENDPOINT_VIP, NETWORK_INGRESS, NETWORK_INTERNAL, SourceKey};
use skep_ebpf_programs::parse::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, UDP};
use skep_ebpf_programs::translate::translate;

use crate::maps::{ENDPOINTS, INTERFACES, NETWORKS, SOURCES, resolver_be};
use crate::send::{endpoint_key, is_too_big, remote_of, set_macs, to_local, to_remote_node};
use crate::skb::Skb;
use crate::verdict::{Code, PASS, TOO_BIG, UNDECIDED, drop, refuse};
use crate::work::{BACK_PEER, Work, read_headers};
use crate::{arp, flows, mesh, vip};

#[inline(always)]
pub fn run(skb: &mut Skb, work: &mut Work) -> Code {
    match admit(skb, work) {
        UNDECIDED => {}
        ARP => return arp::from_container(skb, work),
        code => return code,
    }
    if !flows::fragment_ports(work) {
        return drop(DropReason::FragmentUnknown);
    }
    route(skb, work)
}

/// Answer of [`admit`]: an ARP packet.
const ARP: Code = 3;

/// Who sends, and may it? Sets headers, container, network and the sender's VIP.
#[inline(never)]
fn admit(skb: &mut Skb, work: &mut Work) -> Code {
    // SAFETY, here and below: values are plain numbers that user space replaces as a whole.
    let Some(interface) = (unsafe { INTERFACES.get(skb.ifindex()) }) else {
        return drop(DropReason::UnknownInterface);
    };
    work.container = interface.container;
    work.network = interface.network;
    work.ingress_be = interface.ingress.to_v4().unwrap_or(0);
    work.ingress_network = interface.ingress_network;
    work.back = BACK_PEER;
    let Some(ethernet) = parse::ethernet(skb) else {
        return drop(DropReason::Malformed);
    };
    match ethernet.ethertype {
        ETHERTYPE_IPV4 => {}
        ETHERTYPE_ARP => return ARP,
        _ => return drop(DropReason::UnsupportedProtocol),
    }
    if read_headers(skb, work) == 0 {
        return drop(DropReason::Malformed);
    }
    let source_be = work.headers.source_be;
    let destination_be = work.headers.destination_be;
    if !arp::own_mac(work.container, ethernet.source, source_be) {
        return drop(DropReason::SpoofedMac);
    }
    let key = SourceKey {
        container: work.container,
        address: Address::v4(source_be),
    };
    let Some(source) = (unsafe { SOURCES.get(key) }) else {
        return drop(DropReason::SpoofedAddress);
    };
    work.network = source.network;
    work.source_vip_be = source.vip.to_v4().unwrap_or(0);
    // Multicast and limited broadcast go nowhere: nothing floods.
    if destination_be.to_ne_bytes()[0] >= 224 {
        return drop(DropReason::UnsupportedProtocol);
    }
    if destination_be == resolver_be() {
        skb.set_for_this_host();
        return PASS;
    }
    UNDECIDED
}

#[inline(always)]
fn route(skb: &mut Skb, work: &mut Work) -> Code {
    let Some(network) = (unsafe { NETWORKS.get(work.network) }) else {
        return drop(DropReason::UnknownNetwork);
    };
    let flags = network.flags;
    let gateway_be = network.gateway.words_be[3];
    let destination_be = work.headers.destination_be;
    let inside = (destination_be ^ network.subnet.words_be[3]) & network.mask.words_be[3] == 0;
    work.mtu = network.mtu;
    if flags & NETWORK_INGRESS != 0 {
        let source_be = work.headers.tuple.source_be;
        let code = mesh::reply(skb, work, source_be);
        if code != UNDECIDED {
            return code;
        }
    } else if !inside && work.ingress_be != 0 && work.headers.protocol == UDP {
        // A socket bound to no address answers from the one its route suggests, not from the one it was asked at.
        let network = work.network;
        let ingress_be = work.ingress_be;
        work.network = work.ingress_network;
        let code = mesh::reply(skb, work, ingress_be);
        if code != UNDECIDED {
            return code;
        }
        work.network = network;
    }
    if inside && destination_be != gateway_be {
        return to_neighbour(skb, work);
    }
    if flags & NETWORK_INTERNAL != 0 {
        return drop(DropReason::InternalNetwork);
    }
    skb.set_for_this_host();
    PASS
}

/// To another address of the network.
#[inline(always)]
fn to_neighbour(skb: &mut Skb, work: &mut Work) -> Code {
    let destination_be = work.headers.destination_be;
    let Some(endpoint) = (unsafe { ENDPOINTS.get(endpoint_key(work.network, destination_be)) }) else {
        return drop(DropReason::NoSuchEndpoint);
    };
    if endpoint.kind == ENDPOINT_VIP {
        let backends = endpoint.backends;
        return vip::forward(skb, work, backends);
    }
    let (ifindex, node) = (endpoint.ifindex, endpoint.node);
    if ifindex == 0 {
        return to_remote(skb, work, destination_be, node);
    }
    if work.source_vip_be != 0 && vip::reverse(work) && translate(skb, &work.headers, &work.to).is_err() {
        return drop(DropReason::RewriteFailed);
    }
    to_local(skb, destination_be, ifindex)
}

/// To an endpoint of another node, as it is; `work.headers` describes the packet.
#[inline(always)]
pub fn to_remote(skb: &mut Skb, work: &mut Work, address_be: u32, node: u32) -> Code {
    if is_too_big(skb, &work.headers, work.mtu) {
        work.teller_be = gateway_of(work);
        return TOO_BIG;
    }
    // Before the rewrite: the answer goes to the sender's MAC.
    let remote = remote_of(node);
    if remote == 0 {
        return refuse(DropReason::DeadNode);
    }
    if set_macs(
        skb,
        skep_ebpf_common::endpoint_mac(address_be),
        skep_ebpf_common::GATEWAY_MAC,
    )
    .is_err()
    {
        return drop(DropReason::RewriteFailed);
    }
    to_remote_node(skb, work.network, remote)
}

/// Who tells a container about a packet that is too big.
#[inline(always)]
pub fn gateway_of(work: &Work) -> u32 {
    match unsafe { NETWORKS.get(work.network) } {
        Some(network) => network.gateway.words_be[3],
        None => work.headers.destination_be,
    }
}
