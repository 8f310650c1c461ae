//! Published ports: a client's packet on its way to a task, and the task's on its way back.

use skep_ebpf_common::hash::flow_hash;
use skep_ebpf_common::state::is_over;
use skep_ebpf_common::{
    Address, DropReason, GATEWAY_MAC, MESH_FORWARD, MESH_REPLY, NO_TASK, ORIGIN_HOST, PublishedKey,
    TASK_DRAINING, TaskValue, mesh_node_mac,
};
use skep_ebpf_programs::mesh::{Choice, Known, Rank, Ranks, choose};
use skep_ebpf_programs::parse::{FORM_ERROR, Tuple};
use skep_ebpf_programs::translate::translate;

use crate::container::{gateway_of, mesh_mac};
use crate::flows;
use crate::maps::{
    ENDPOINTS, NETWORKS, OWN_ADDRESSES, PUBLISHED, ROWS, TASKS, host_ifindex, host_mac, is_marked,
    mesh_address_be, mesh_vni, mesh_vni_forwarded, node,
};
use crate::send::{endpoint_key, is_too_big, out_of, set_macs, to_local, to_neighbour, to_node};
use crate::skb::Skb;
use crate::verdict::{Code, TOO_BIG, UNDECIDED, drop, refuse};
use crate::work::Work;

/// Finds the published port the packet is for and the row of its flow. `false`: not published.
#[inline(always)]
pub fn look_up(work: &mut Work) -> bool {
    let tuple = work.headers.tuple;
    let key = PublishedKey {
        address: Address::default(),
        protocol: u16::from(work.headers.protocol),
        port_be: tuple.destination_port_be,
    };
    // SAFETY, here and below: plain numbers that user space replaces as a whole.
    let Some(published) = (unsafe { PUBLISHED.get(key) }) else {
        return false;
    };
    work.published = *published;
    work.network = published.network;
    work.mtu = unsafe { NETWORKS.get(work.network) }.map_or(0, |n| n.mtu);
    let client = Address::v4(tuple.source_be);
    let hash = flow_hash(
        work.published.seed,
        &client,
        tuple.source_port_be,
        tuple.destination_port_be,
        work.headers.protocol,
    );
    let index = work
        .published
        .rows_base
        .wrapping_add(hash as u32 & work.published.rows_mask);
    match ROWS.get(index) {
        Some(row) => work.row = row.tasks,
        None => work.row = [NO_TASK; 4],
    }
    true
}

struct View<'a> {
    work: &'a mut Work,
    me: u32,
    opens: bool,
}

impl View<'_> {
    #[inline(always)]
    fn task(&self, column: usize) -> Option<&'static TaskValue> {
        task(self.work, column)
    }
}

#[inline(always)]
fn task(work: &Work, column: usize) -> Option<&'static TaskValue> {
    let index = *work.row.get(column)?;
    if index == NO_TASK || work.published.tasks == 0 {
        return None;
    }
    TASKS.get(work.published.tasks_base.wrapping_add(u32::from(index)))
}

impl Ranks for View<'_> {
    #[inline(always)]
    fn rank(&mut self, column: usize) -> Option<Rank> {
        let task = self.task(column)?;
        Some(Rank {
            local: task.node == self.me,
            draining: task.flags & TASK_DRAINING != 0,
        })
    }

    #[inline(always)]
    fn alive(&mut self, column: usize) -> bool {
        let Some(task) = self.task(column) else {
            return false;
        };
        !is_marked(task.node)
    }

    #[inline(always)]
    fn known(&mut self, column: usize) -> Known {
        let Some(task) = self.task(column) else {
            return Known::No;
        };
        set_key(self.work, task.address.words_be[3]);
        let Some(found) = flows::find(self.work) else {
            return Known::No;
        };
        if self.opens && is_over(found.value) {
            return Known::No;
        }
        let tuple = &self.work.headers.tuple;
        let same = found.value.dialed.words_be[3] == tuple.destination_be
            && found.value.dialed_port_be == tuple.destination_port_be;
        if same { Known::Yes } else { Known::Occupied }
    }
}

#[inline(always)]
fn set_key(work: &mut Work, task_be: u32) {
    let tuple = work.headers.tuple;
    let port_be = work.published.target_port_be;
    flows::set_mesh_key(work, tuple.source_be, tuple.source_port_be, task_be, port_be);
}

/// A client's packet, `look_up` done; `entry`, `origin`, `hop` and `back` set.
#[inline(never)]
pub fn forward(skb: &mut Skb, work: &mut Work) -> Code {
    let opens = work.headers.opens();
    let hop = work.hop as u8;
    let choice = choose(
        &mut View {
            work,
            me: node(),
            opens,
        },
        hop,
        opens,
    );
    match choice {
        Choice::Deliver(column) => deliver(skb, work, column, false),
        Choice::Open(column) => deliver(skb, work, column, true),
        Choice::Forward(column) => send_on(skb, work, column),
        Choice::Nobody if opens => refuse(DropReason::NoBackend),
        Choice::Nobody => refuse(DropReason::UnknownFlow),
        Choice::Collision => drop(DropReason::FlowCollision),
    }
}

/// Untranslated: the task's node looks up for itself.
#[inline(always)]
fn send_on(skb: &mut Skb, work: &mut Work, column: usize) -> Code {
    let Some(task) = task(work, column) else {
        return drop(DropReason::NoBackend);
    };
    let target = task.node;
    if is_too_big(skb, &work.headers, work.mtu) {
        work.teller_be = work.headers.destination_be;
        return TOO_BIG;
    }
    let vni = if work.hop == 0 {
        mesh_vni()
    } else {
        mesh_vni_forwarded()
    };
    if set_macs(
        skb,
        mesh_mac(MESH_FORWARD, work.hop + 1),
        mesh_node_mac(work.entry),
    )
    .is_err()
    {
        return drop(DropReason::RewriteFailed);
    }
    to_node(skb, vni, target)
}

#[inline(always)]
fn deliver(skb: &mut Skb, work: &mut Work, column: usize, open: bool) -> Code {
    let Some(task) = task(work, column) else {
        return drop(DropReason::NoBackend);
    };
    let address = task.address;
    let task_be = address.words_be[3];
    let Some(endpoint) = (unsafe { ENDPOINTS.get(endpoint_key(work.network, task_be)) }) else {
        return refuse(DropReason::NoSuchEndpoint);
    };
    let ifindex = endpoint.ifindex;
    if ifindex == 0 {
        return refuse(DropReason::NotLocal);
    }
    set_key(work, task_be);
    let tuple = work.headers.tuple;
    if open {
        work.value.dialed = Address::v4(tuple.destination_be);
        work.value.dialed_port_be = tuple.destination_port_be;
        work.value.task = address;
        work.value.task_port_be = work.published.target_port_be;
        work.value.origin = work.origin as u8;
        work.value.flags = 0;
        work.value.return_node = work.entry;
        if !flows::create(work) {
            return refuse(DropReason::FlowTableFull);
        }
    } else if let Some(mut found) = flows::find(work) {
        // The client may come in elsewhere now: an address moved, or a router above changed its mind.
        if found.value.return_node != work.entry || found.value.origin != work.origin as u8 {
            found.value.return_node = work.entry;
            found.value.origin = work.origin as u8;
        }
        if work.headers.form != FORM_ERROR && !flows::touch_forward(work, &mut found) {
            return refuse(DropReason::FlowTableFull);
        }
    }
    work.to = Tuple {
        destination_be: task_be,
        destination_port_be: work.published.target_port_be,
        ..tuple
    };
    if translate(skb, &work.headers, &work.to).is_err() {
        return drop(DropReason::RewriteFailed);
    }
    to_local(skb, task_be, ifindex)
}

/// A task's packet: if it is of a mesh flow of the task's address `task_be` in `work.network`, from the dialed address, back by the node the client came in through.
#[inline(never)]
pub fn reply(skb: &mut Skb, work: &mut Work, task_be: u32) -> Code {
    let tuple = work.headers.tuple;
    let client = (tuple.destination_be, tuple.destination_port_be);
    flows::set_mesh_key(work, client.0, client.1, task_be, tuple.source_port_be);
    let Some(mut found) = flows::find(work) else {
        return UNDECIDED;
    };
    let dialed_be = found.value.dialed.words_be[3];
    let return_node = found.value.return_node;
    let origin = found.value.origin;
    work.to = Tuple {
        source_be: dialed_be,
        source_port_be: found.value.dialed_port_be,
        ..work.headers.tuple
    };
    if work.headers.form != FORM_ERROR {
        flows::touch_reverse(work, &mut found);
    }
    let here = return_node == node();
    if !here && is_too_big(skb, &work.headers, work.mtu) {
        work.teller_be = gateway_of(work);
        return TOO_BIG;
    }
    if translate(skb, &work.headers, &work.to).is_err() {
        return drop(DropReason::RewriteFailed);
    }
    if !here {
        if set_macs(skb, mesh_mac(MESH_REPLY, 0), mesh_node_mac(node())).is_err() {
            return drop(DropReason::RewriteFailed);
        }
        return to_node(skb, mesh_vni(), return_node);
    }
    if u32::from(origin) == u32::from(ORIGIN_HOST) {
        to_host(skb)
    } else {
        leave(skb, dialed_be)
    }
}

/// A translated reply at the node the client came in through.
#[inline(always)]
pub fn leave(skb: &mut Skb, source_be: u32) -> Code {
    if source_be == mesh_address_be() {
        return to_host(skb);
    }
    let Some(ifindex) = (unsafe { OWN_ADDRESSES.get(Address::v4(source_be)) }) else {
        return drop(DropReason::MeshReturnUnknown);
    };
    let ifindex = ifindex.ifindex;
    to_neighbour(skb, ifindex)
}

/// To the node's own sockets.
#[inline(always)]
fn to_host(skb: &mut Skb) -> Code {
    if set_macs(skb, host_mac(), GATEWAY_MAC).is_err() {
        return drop(DropReason::RewriteFailed);
    }
    out_of(skb, host_ifindex())
}
