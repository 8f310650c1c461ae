//! The flow table: look-up, state, promotion; and the ports of fragments.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use skep_ebpf_common::state::{TCP, advance, is_established, is_over};
use skep_ebpf_common::{Address, FLOW_MESH, FLOW_VIP, FlowKey, FlowValue, FragmentKey, FragmentValue};
use skep_ebpf_programs::parse::{FORM_FIRST_FRAGMENT, FORM_LATER_FRAGMENT};

use crate::maps::{
    FLOWS, FLOWS_BEFORE, FRAGMENTS, FRAGMENTS_BEFORE, HALF_OPEN, HALF_OPEN_BEFORE, PRESSURE, moving,
};
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
    let found = look_up(&work.key);
    if found.is_some() || moving() == 0 || adopt(&work.key) == 0 {
        return found;
    }
    look_up(&work.key)
}

#[inline(always)]
fn look_up(key: &FlowKey) -> Option<Found> {
    let (pointer, half_open) = match FLOWS.get_ptr_mut(key) {
        Some(pointer) => (pointer, false),
        None => (HALF_OPEN.get_ptr_mut(key)?, true),
    };
    // SAFETY: the entry stays readable for this run even if it is removed meanwhile; fields are plain numbers.
    Some(Found {
        value: unsafe { &mut *pointer },
        half_open,
    })
}

/// While flows move from the tables of another layout: one that user space has not copied yet comes with its next packet,
/// so that no moment exists in which neither program knows it. 0: there is none.
#[inline(never)]
fn adopt(key: &FlowKey) -> u32 {
    let (pointer, half_open) = match FLOWS_BEFORE.get_ptr(key) {
        Some(pointer) => (pointer, false),
        None => match HALF_OPEN_BEFORE.get_ptr(key) {
            Some(pointer) => (pointer, true),
            None => return 0,
        },
    };
    // SAFETY: as in `look_up`; the helper copies it.
    let value = unsafe { &*pointer };
    let kept = !half_open && !is_over(value) && FLOWS.insert(key, value, u64::from(BPF_NOEXIST)).is_ok();
    if !kept {
        // Another CPU was first, or there is no room: the second look-up tells.
        HALF_OPEN.insert(key, value, u64::from(BPF_NOEXIST)).unwrap_or(());
    }
    1
}

/// Writes `work.value` as a new flow of `work.key`. It may stand where one that is over stood. `false`: no room, or no
/// room for it to become established.
#[inline(always)]
pub fn create(work: &mut Work) -> bool {
    if work.headers.protocol == TCP && is_full(work.now_s) {
        return false;
    }
    work.value.forward = advance(0, work.headers.protocol, work.headers.tcp_flags);
    work.value.reverse = 0;
    work.value.last_seen_s = work.now_s;
    work.value.spare = [0; 2];
    if FLOWS.get_ptr_mut(&work.key).is_some() && FLOWS.remove(&work.key).is_err() {
        return false;
    }
    HALF_OPEN
        .insert(&work.key, &work.value, u64::from(BPF_ANY))
        .is_ok()
}

/// The table of established flows had no room for a flow within this second or the one before.
#[inline(always)]
fn is_full(now_s: u32) -> bool {
    PRESSURE
        .get(0)
        .is_some_and(|seen_s| now_s.wrapping_sub(*seen_s) <= 1)
}

/// Notes a packet from the client, and moves a flow that proved itself to where nothing evicts it. `false`: there is no room
/// for it, and it is forgotten. A TCP flow left among the half-open ones would be evicted later, in the middle of
/// somebody's work; UDP goes on there, for its table look-up gives the same task again.
#[inline(always)]
pub fn touch_forward(work: &mut Work, found: &mut Found) -> bool {
    let bits = advance(found.value.forward, work.headers.protocol, work.headers.tcp_flags);
    if bits != found.value.forward {
        found.value.forward = bits;
    }
    note_time(work, found.value);
    if !found.half_open {
        retire(work, found);
        return true;
    }
    if !is_established(found.value) || is_over(found.value) {
        return true;
    }
    work.value = *found.value;
    if FLOWS.insert(&work.key, &work.value, u64::from(BPF_ANY)).is_ok() {
        // An entry left behind would only be shadowed until it is evicted.
        HALF_OPEN.remove(&work.key).unwrap_or(());
        return true;
    }
    if let Some(seen_s) = PRESSURE.get_ptr_mut(0) {
        // SAFETY: one number that any CPU may write.
        unsafe { *seen_s = work.now_s };
    }
    if work.headers.protocol != TCP {
        return true;
    }
    HALF_OPEN.remove(&work.key).unwrap_or(());
    false
}

/// Notes a packet from the task.
#[inline(always)]
pub fn touch_reverse(work: &mut Work, found: &mut Found) {
    let bits = advance(found.value.reverse, work.headers.protocol, work.headers.tcp_flags);
    if bits != found.value.reverse {
        found.value.reverse = bits;
    }
    note_time(work, found.value);
    if !found.half_open {
        retire(work, found);
    }
}

/// A flow that is over waits for its last packets where others may evict it: many short connections must not fill the place
/// of those that live. Nothing may be read from `found` afterwards.
#[inline(always)]
fn retire(work: &mut Work, found: &mut Found) {
    if !is_over(found.value) {
        return;
    }
    work.value = *found.value;
    if HALF_OPEN
        .insert(&work.key, &work.value, u64::from(BPF_ANY))
        .is_ok()
    {
        // Another CPU may have removed it already.
        FLOWS.remove(&work.key).unwrap_or(());
    }
}

/// Two directions run on two CPUs: a line written by both for every packet would bounce between them.
#[inline(always)]
pub fn note_time(work: &Work, value: &mut FlowValue) {
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
        // SAFETY, here and below: two plain numbers.
        let mut ports = unsafe { FRAGMENTS.get(&work.fragment) };
        if ports.is_none() && moving() != 0 {
            ports = unsafe { FRAGMENTS_BEFORE.get(&work.fragment) };
        }
        let Some(ports) = ports else {
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
