//! What outside clients send to this node's own addresses.

use skep_ebpf_common::{Address, DropReason, ORIGIN_UPLINK};
use skep_ebpf_programs::parse::{self, ETHERTYPE_IPV4, FORM_FIRST_FRAGMENT};

use crate::maps::{OWN_ADDRESSES, node};
use crate::skb::Skb;
use crate::verdict::{Code, PASS, refuse};
use crate::work::{BACK_PLAIN, Work, read_headers};
use crate::{flows, mesh};

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
    if read_headers(skb, work) == 0 {
        return PASS;
    }
    let form = work.headers.form;
    // SAFETY: only its presence matters.
    if unsafe { OWN_ADDRESSES.get(Address::v4(work.headers.destination_be)) }.is_none() {
        return PASS;
    }
    // Fragments of clients share one table, whatever network their port leads to.
    work.network = 0;
    if form != FORM_FIRST_FRAGMENT && !flows::fragment_ports(work) {
        return PASS;
    }
    if !mesh::look_up(work) {
        return PASS;
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
    work.back = BACK_PLAIN;
    if work.published.tasks == 0 {
        return refuse(DropReason::NoBackend);
    }
    mesh::forward(skb, work)
}
