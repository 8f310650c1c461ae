//! The flow table: look-up, state, promotion; and the ports of fragments.

use aya_ebpf::bindings::BPF_ANY;
use skep_ebpf_common::state::{advance, is_established, is_over};
use skep_ebpf_common::{Address, FLOW_MESH, FLOW_VIP, FlowKey, FlowValue, FragmentKey, FragmentValue};
use skep_ebpf_programs::parse::{FORM_FIRST_FRAGMENT, FORM_LATER_FRAGMENT};

use crate::maps::{FLOWS, FRAGMENTS, HALF_OPEN};
use crate::work::Work;

/// A flow found.
pub struct Found {
    pub value: &'static mut FlowValue,
    half_open: bool,
}

#[inline(always)]
pub fn set_vip_key(work: &mut Work, client_be: u32, client_port_be: u16, vip_be: u32, port_be: u16) {
    set_key(work, FLOW_VIP, client_be, client_port_be, vip_be, port_be);
}

#[inline(always)]
pub fn set_mesh_key(work: &mut Work, client_be: u32, client_port_be: u16, task_be: u32, port_be: u16) {
    set_key(work, FLOW_MESH, client_be, client_port_be, task_be, port_be);
}

#[inline(always)]
fn set_key(
    work: &mut Work,
    kind: u8,
    client_be: u32,
    client_port_be: u16,
    server_be: u32,
    server_port_be: u16,
) {
    work.key = FlowKey {
        network: work.network,
        protocol: work.headers.protocol,
        kind,
        pad: 0,
        client: Address::v4(client_be),
        server: Address::v4(server_be),
        client_port_be,
        server_port_be,
    };
}

/// The flow of `work.key`.
#[inline(always)]
pub fn find(work: &Work) -> Option<Found> {
    let (pointer, half_open) = match FLOWS.get_ptr_mut(&work.key) {
        Some(pointer) => (pointer, false),
        None => (HALF_OPEN.get_ptr_mut(&work.key)?, true),
    };
    // SAFETY: the entry stays readable for this run even if it is removed meanwhile; fields are plain numbers.
    Some(Found {
        value: unsafe { &mut *pointer },
        half_open,
    })
}

/// Writes `work.value` as a new flow of `work.key`. It may stand where one that is over stood.
#[inline(always)]
pub fn create(work: &mut Work) -> bool {
    work.value.forward = advance(0, work.headers.protocol, work.headers.tcp_flags);
    work.value.reverse = 0;
    work.value.last_seen_s = work.now_s;
    work.value.pad = 0;
    work.value.spare = [0; 2];
    if FLOWS.get_ptr_mut(&work.key).is_some() && FLOWS.remove(&work.key).is_err() {
        return false;
    }
    HALF_OPEN
        .insert(&work.key, &work.value, u64::from(BPF_ANY))
        .is_ok()
}

/// Notes a packet from the client, and moves a flow that proved itself to where nothing evicts it. When that table is
/// full the flow goes on as half-open.
#[inline(always)]
pub fn touch_forward(work: &mut Work, found: &mut Found) {
    let bits = advance(found.value.forward, work.headers.protocol, work.headers.tcp_flags);
    if bits != found.value.forward {
        found.value.forward = bits;
    }
    note_time(work, found.value);
    if found.half_open && is_established(found.value) && !is_over(found.value) {
        work.value = *found.value;
        if FLOWS.insert(&work.key, &work.value, u64::from(BPF_ANY)).is_ok() {
            // An entry left behind would only be shadowed until it is evicted.
            HALF_OPEN.remove(&work.key).unwrap_or(());
        }
    }
}

/// Notes a packet from the task.
#[inline(always)]
pub fn touch_reverse(work: &Work, found: &mut Found) {
    let bits = advance(found.value.reverse, work.headers.protocol, work.headers.tcp_flags);
    if bits != found.value.reverse {
        found.value.reverse = bits;
    }
    note_time(work, found.value);
}

/// Two directions run on two CPUs: a line written by both for every packet would bounce between them.
#[inline(always)]
fn note_time(work: &Work, value: &mut FlowValue) {
    if value.last_seen_s != work.now_s {
        value.last_seen_s = work.now_s;
    }
}

/// Gives later fragments the ports of the first. `false`: the first one was not seen.
#[inline(always)]
pub fn fragment_ports(work: &mut Work) -> bool {
    let headers = &work.headers;
    if headers.form != FORM_FIRST_FRAGMENT && headers.form != FORM_LATER_FRAGMENT {
        return true;
    }
    work.fragment = FragmentKey {
        network: work.network,
        source: Address::v4(headers.source_be),
        destination: Address::v4(headers.destination_be),
        id_be: headers.id_be,
        protocol: u16::from(headers.protocol),
    };
    if headers.form == FORM_LATER_FRAGMENT {
        // SAFETY: two plain numbers.
        let Some(ports) = (unsafe { FRAGMENTS.get(&work.fragment) }) else {
            return false;
        };
        work.headers.tuple.source_port_be = ports.source_port_be;
        work.headers.tuple.destination_port_be = ports.destination_port_be;
        return true;
    }
    let ports = FragmentValue {
        source_port_be: headers.tuple.source_port_be,
        destination_port_be: headers.tuple.destination_port_be,
    };
    FRAGMENTS
        .insert(&work.fragment, &ports, u64::from(BPF_ANY))
        .is_ok()
}
