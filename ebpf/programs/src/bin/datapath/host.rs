//! What the node's own sockets send to its published ports, by way of the mesh address.

use skep_ebpf_common::{ASKED, DropReason, ORIGIN_HOST, is_stand_in};
use skep_ebpf_programs::parse::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4};

use crate::maps::{is_of_host, node};
use crate::skb::Skb;
use crate::verdict::{Code, drop, refuse};
use crate::work::{BACK_PLAIN, Work, read_headers};
use crate::{arp, flows, mesh};

#[inline(always)]
pub fn run(skb: &mut Skb, work: &mut Work) -> Code {
    let Some(ethernet) = parse::ethernet(skb) else {
        return drop(DropReason::Malformed);
    };
    match ethernet.ethertype {
        ETHERTYPE_IPV4 => {}
        ETHERTYPE_ARP => return arp::from_host(skb),
        _ => return drop(DropReason::UnsupportedProtocol),
    }
    if read_headers(skb, work) == 0 {
        return drop(DropReason::Malformed);
    }
    work.back = BACK_PLAIN;
    let destination_be = work.headers.destination_be;
    if !is_of_host(destination_be) {
        return drop(DropReason::HostToOverlay);
    }
    work.network = 0;
    work.flags = 0;
    work.dedicated = u32::from(is_stand_in(destination_be));
    if !flows::fragment_ports(work) {
        return drop(DropReason::FragmentUnknown);
    }
    if !mesh::look_up(work) {
        return refuse(DropReason::NoBackend);
    }
    work.entry = node();
    work.origin = u32::from(ORIGIN_HOST);
    work.hop = 0;
    work.asked = [0; ASKED];
    work.entry_asked = 0;
    work.quest = 0;
    mesh::forward(skb, work)
}
