//! ARP, answered where it is asked: every neighbour of a container is the gateway; an ingress address is its holder's.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use skep_ebpf_common::{Address, DropReason, GATEWAY_MAC, OWN_INGRESS, SourceKey};
use skep_ebpf_programs::answer::arp_reply;
use skep_ebpf_programs::packet::Packet;
use skep_ebpf_programs::parse;

use crate::maps::{ENDPOINTS, HOLDERS, NETWORKS, OWN_ADDRESSES, SOURCES, is_of_host, resolver_be};
use crate::send::{endpoint_key, into_peer, out_of};
use crate::skb::Skb;
use crate::verdict::{Code, PASS, drop};
use crate::work::Work;

/// From a container; `work.network` is the interface's. Probes (sender 0.0.0.0, RFC 5227) and announcements are swallowed: addresses are given out once.
#[inline(never)]
pub fn from_container(skb: &mut Skb, work: &mut Work) -> Code {
    let Some(arp) = parse::arp(skb) else {
        return drop(DropReason::Malformed);
    };
    let key = SourceKey {
        container: work.container,
        address: Address::v4(arp.sender_be),
    };
    // SAFETY: plain numbers.
    let Some(source) = (unsafe { SOURCES.get(key) }) else {
        return drop(DropReason::SpoofedArp);
    };
    let network = source.network;
    let own = own_mac(work.container, arp.sender_mac, arp.sender_be);
    if !own {
        return drop(DropReason::SpoofedArp);
    }
    if !arp.request || arp.target_be == arp.sender_be {
        return drop(DropReason::ArpUnknown);
    }
    // A reply may leave by another interface than its address belongs to; then so does the question for its next hop.
    if !is_neighbour(network, arp.target_be) && !is_neighbour(work.network, arp.target_be) {
        return drop(DropReason::ArpUnknown);
    }
    if skb.store(0, &arp_reply(&arp, GATEWAY_MAC)).is_err() {
        return drop(DropReason::ReplyFailed);
    }
    let ifindex = skb.ifindex();
    into_peer(skb, ifindex)
}

/// Has the network such an address? The resolver is in all of them.
#[inline(always)]
fn is_neighbour(network: u32, target_be: u32) -> bool {
    // SAFETY: plain numbers that user space replaces as a whole.
    target_be == resolver_be()
        || unsafe { ENDPOINTS.get(endpoint_key(network, target_be)) }.is_some()
        || unsafe { NETWORKS.get(network) }.is_some_and(|n| n.gateway == Address::v4(target_be))
}

/// From the node itself: only the mesh address and its like have a neighbour.
#[inline(never)]
pub fn from_host(skb: &mut Skb) -> Code {
    let Some(arp) = parse::arp(skb) else {
        return drop(DropReason::Malformed);
    };
    if !arp.request || !is_of_host(arp.target_be) {
        return drop(DropReason::ArpUnknown);
    }
    if skb.store(0, &arp_reply(&arp, GATEWAY_MAC)).is_err() {
        return drop(DropReason::ReplyFailed);
    }
    let ifindex = skb.ifindex();
    out_of(skb, ifindex)
}

/// From the outside. For an ingress address nobody but its holder answers, and only while its lease lasts: a node whose
/// agent is stopped or dead falls silent, whatever addresses its stack has.
#[inline(never)]
pub fn from_uplink(skb: &mut Skb) -> Code {
    let Some(arp) = parse::arp(skb) else {
        return PASS;
    };
    if !arp.request {
        return PASS;
    }
    // SAFETY: plain numbers that user space replaces as a whole.
    let Some(own) = (unsafe { OWN_ADDRESSES.get(Address::v4(arp.target_be)) }) else {
        return PASS;
    };
    if own.flags & OWN_INGRESS == 0 {
        return PASS;
    }
    let (mac, own_ifindex) = (own.mac, own.ifindex);
    let held = until_ns(arp.target_be) > now_ns();
    let announced = arp.sender_be == arp.target_be;
    if announced && !held {
        // This node's own neighbour table has to follow.
        return PASS;
    }
    let ifindex = skb.ifindex();
    if announced || !held || own_ifindex != ifindex {
        return drop(DropReason::IngressArp);
    }
    if skb.store(0, &arp_reply(&arp, mac)).is_err() {
        return drop(DropReason::ReplyFailed);
    }
    out_of(skb, ifindex)
}

/// Until when this node holds an ingress address; 0: it does not.
#[inline(always)]
pub fn until_ns(address_be: u32) -> u64 {
    // SAFETY: plain numbers that user space replaces as a whole.
    unsafe { HOLDERS.get(Address::v4(address_be)) }.map_or(0, |holder| holder.until_ns)
}

/// The clock of [`until_ns`].
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Is this the MAC of one of the container's own addresses? `likely_be`: the one it most probably is.
#[inline(always)]
pub fn own_mac(container: u32, mac: [u8; 6], likely_be: u32) -> bool {
    if mac[0] != 0x02 || mac[1] != 0x42 {
        return false;
    }
    let address_be = u32::from_ne_bytes([mac[2], mac[3], mac[4], mac[5]]);
    if address_be == likely_be {
        return true;
    }
    let key = SourceKey {
        container,
        address: Address::v4(address_be),
    };
    // SAFETY: only its presence matters.
    unsafe { SOURCES.get(key) }.is_some()
}
