//! What outside clients send to this node's own addresses and to those of the swarm.

use skep_ebpf_common::{
    ASKED, Address, DropReason, FLOW_INGRESS, ORIGIN_UPLINK, OWN_DEDICATED, OWN_INGRESS, STACK_KEEPS_NS,
};
use skep_ebpf_programs::parse::{
    self, ETHERTYPE_ARP, ETHERTYPE_IPV4, FORM_FIRST_FRAGMENT, FORM_WHOLE, ICMP, ICMP_ECHO_REQUEST,
};

use crate::maps::{OWN_ADDRESSES, node};
use crate::skb::Skb;
use crate::verdict::{Code, PASS, refuse};
use crate::work::{BACK_PLAIN, Work, read_headers};
use crate::{arp, flows, mesh, reply};

/// Whatever is not for a published port is the stack's.
#[inline(always)]
pub fn run(skb: &mut Skb, work: &mut Work) -> Code {
    if skb.is_for_another_host() {
        return PASS;
    }
    let Some(ethernet) = parse::ethernet(skb) else {
        return PASS;
    };
    match ethernet.ethertype {
        ETHERTYPE_IPV4 => {}
        ETHERTYPE_ARP => return arp::from_uplink(skb),
        _ => return PASS,
    }
    if read_headers(skb, work) == 0 {
        return PASS;
    }
    let form = work.headers.form;
    // SAFETY: plain numbers that user space replaces as a whole.
    let Some(own) = (unsafe { OWN_ADDRESSES.get(Address::v4(work.headers.destination_be)) }) else {
        return PASS;
    };
    let ingress = own.flags & OWN_INGRESS;
    work.flags = if ingress != 0 { u32::from(FLOW_INGRESS) } else { 0 };
    work.dedicated = own.flags & OWN_DEDICATED;
    work.back = BACK_PLAIN;
    // Fragments of clients share one table, whatever network their port leads to.
    work.network = 0;
    let known = form == FORM_FIRST_FRAGMENT || flows::fragment_ports(work);
    if !known || !mesh::look_up(work) {
        return if ingress == 0 {
            PASS
        } else {
            not_published(skb, work)
        };
    }
    if form == FORM_FIRST_FRAGMENT {
        let network = work.network;
        work.network = 0;
        // Later fragments that find nothing go to the stack, which drops them.
        flows::fragment_ports(work);
        work.network = network;
    }
    work.entry = node();
    work.origin = u32::from(ORIGIN_UPLINK);
    work.hop = 0;
    work.asked = [0; ASKED];
    work.entry_asked = 0;
    work.quest = 0;
    if work.published.tasks == 0 {
        return refuse(DropReason::NoBackend);
    }
    mesh::forward(skb, work)
}

/// To an ingress address, but to no published port. Its holder's stack has the address. Another node may be sent such a
/// packet while the address moves: it answers echo requests as the holder does, and refuses the rest, which its stack
/// would send on to who knows whom.
#[inline(never)]
fn not_published(skb: &mut Skb, work: &mut Work) -> Code {
    let headers = &work.headers;
    if headers.protocol == ICMP && headers.form == FORM_WHOLE && headers.icmp_type == ICMP_ECHO_REQUEST {
        return reply::echo(skb, work);
    }
    let until_ns = arp::until_ns(headers.destination_be);
    if until_ns != 0 && until_ns + STACK_KEEPS_NS > arp::now_ns() {
        return PASS;
    }
    refuse(DropReason::NotHeld)
}
