//! What outside clients send to this node's own addresses.

use skep_ebpf_common::{Address, DropReason, ORIGIN_UPLINK};
use skep_ebpf_programs::parse::{self, ETHERTYPE_IPV4, FORM_FIRST_FRAGMENT};

use crate::maps::{OWN_ADDRESSES, node};
use crate::skb::Skb;
use crate::verdict::{Code, PASS};
use crate::work::{BACK_PLAIN, Work};
use crate::{flows, mesh, reply};

/// Whatever is not for a published port is the stack's.
#[inline(always)]
pub fn run(skb: &mut Skb, work: &mut Work) -> Code {
    if skb.is_for_another_host() {
        return PASS;
    }
    let Some(ethernet) = parse::ethernet(skb) else {
        return PASS;
    };
    if ethernet.ethertype != ETHERTYPE_IPV4 {
        return PASS;
    }
    let Some(headers) = parse::ipv4(skb) else {
        return PASS;
    };
    // SAFETY: only its presence matters.
    if unsafe { OWN_ADDRESSES.get(Address::v4(headers.destination_be)) }.is_none() {
        return PASS;
    }
    work.headers = headers;
    // Fragments of clients share one table, whatever network their port leads to.
    work.network = 0;
    if headers.form != FORM_FIRST_FRAGMENT && !flows::fragment_ports(work) {
        return PASS;
    }
    if !mesh::look_up(work) {
        return PASS;
    }
    if headers.form == FORM_FIRST_FRAGMENT {
        let network = work.network;
        work.network = 0;
        // Later fragments that find nothing go to the stack, which drops them.
        flows::fragment_ports(work);
        work.network = network;
    }
    work.entry = node();
    work.origin = u32::from(ORIGIN_UPLINK);
    work.hop = 0;
    work.back = BACK_PLAIN;
    if work.published.tasks == 0 {
        return reply::refuse(skb, work, DropReason::NoBackend);
    }
    mesh::forward(skb, work)
}
