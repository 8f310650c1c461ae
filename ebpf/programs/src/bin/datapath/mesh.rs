//! Published ports: a client's packet on its way to a task, and the task's on its way back.

use skep_ebpf_common::hash::{fingerprint, flow_hash};
use skep_ebpf_common::state::is_over;
use skep_ebpf_common::{
    Address, COLUMNS, DropReason, FLOW_DSR, FLOW_ELSEWHERE, FLOW_INGRESS, GATEWAY_MAC, HOLDER_IS_OLD_S,
    MESH_ASK, MESH_DEDICATED, MESH_ENTRY_ASKED, MESH_FORWARD, MESH_INGRESS, MESH_SETTLE, MeshHeader, NO_TASK,
    ORIGIN_HOST, ORIGIN_UPLINK, PUBLISHED_DSR, PublishedKey, ROWS_ARE_NEW_S, TASK_DRAINING, TaskValue,
};
use skep_ebpf_programs::mesh::{Choice, Known, Opening, Rank, Ranks, Tally, choose, note};
use skep_ebpf_programs::parse::{FORM_ERROR, TCP, Tuple};
use skep_ebpf_programs::translate::translate;

use crate::container::gateway_of;
use crate::flows;
use crate::maps::{
    ENDPOINTS, HOLDERS, NETWORKS, OWN_ADDRESSES, PUBLISHED, ROWS, TASKS, host_ifindex, host_mac, is_gone,
    is_marked, is_of_host, mesh_vni, mesh_vni_forwarded, node,
};
use crate::send::{
    endpoint_key, is_too_big, out_of, remote_of, route, set_macs, to_local, to_neighbour, to_remote_node,
};
use crate::skb::Skb;
use crate::verdict::{Code, TOO_BIG, UNDECIDED, drop, refuse};
use crate::work::{Decision, NO_COLUMN, Work};

/// Finds the published port the packet is for and the row of its flow. `false`: not published.
#[inline(always)]
pub fn look_up(work: &mut Work) -> bool {
    let tuple = work.headers.tuple;
    let key = PublishedKey {
        address: if work.dedicated != 0 {
            Address::v4(tuple.destination_be)
        } else {
            Address::default()
        },
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
    work.hash = hash as u32;
    let index = work
        .published
        .rows_base
        .wrapping_add(hash as u32 & work.published.rows_mask);
    match ROWS.get(index) {
        Some(row) => work.row = row.tasks,
        None => work.row = [NO_TASK; COLUMNS],
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
        // A datagram may be of a flow that is not new.
        if self.opens && self.work.headers.protocol == TCP {
            !is_marked(task.node)
        } else {
            !is_gone(task.node)
        }
    }

    #[inline(always)]
    fn asked(&mut self, column: usize) -> bool {
        let Some(task) = self.task(column) else {
            return false;
        };
        let fingerprint = fingerprint(task.node, self.work.hash);
        (self.work.entry_asked != 0 && task.node == self.work.entry) || self.work.asked.contains(&fingerprint)
    }

    #[inline(always)]
    fn tally(&mut self) -> &mut Tally {
        &mut self.work.tally
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
        if found.value.flags & FLOW_ELSEWHERE != 0 {
            return if self.work.quest == MESH_SETTLE {
                Known::No
            } else {
                Known::Elsewhere
            };
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

/// Writes `work.decision`. A function of its own whose result passes through memory: the verifier forgets there which of many
/// ways led to it, and walks through what follows once instead of once for each.
#[inline(never)]
fn decide(work: &mut Work) -> u32 {
    let opens = work.headers.opens();
    let tcp = work.headers.protocol == TCP;
    let opening = if !opens {
        Opening::No
    } else if !tcp && work.quest != MESH_SETTLE && (work.quest == MESH_ASK || rows_are_new(work)) {
        Opening::Asking
    } else {
        Opening::Yes
    };
    let hop = work.hop as u8;
    let me = node();
    let choice = choose(&mut View { work, me, opens }, hop, opening);
    let (kind, column, here) = match choice {
        Choice::Deliver(column) => (DELIVER, column, None),
        Choice::Open(column) => (OPEN, column, None),
        Choice::Forward(column) => (FORWARD, column, None),
        Choice::PassOn(column) => (PASS_ON, column, None),
        Choice::Ask(column, here) => (ASK, column, here),
        Choice::Settle(column) => (SETTLE, column, None),
        Choice::Nobody => (NOBODY, 0, None),
        Choice::Collision => (COLLISION, 0, None),
    };
    work.decision = Decision {
        kind,
        column: column as u32,
        here: here.map_or(NO_COLUMN, |here| here as u32),
    };
    0
}

/// `Decision::kind`: see [`Choice`].
const DELIVER: u32 = 0;
const OPEN: u32 = 1;
const FORWARD: u32 = 2;
const PASS_ON: u32 = 3;
const ASK: u32 = 4;
const SETTLE: u32 = 5;
const NOBODY: u32 = 6;
const COLLISION: u32 = 7;

/// A client's packet, `look_up` done; `entry`, `origin`, `hop` and `back` set.
#[inline(never)]
pub fn forward(skb: &mut Skb, work: &mut Work) -> Code {
    decide(work);
    let column = work.decision.column as usize;
    match work.decision.kind {
        DELIVER => return deliver(skb, work, column, false),
        OPEN => return deliver(skb, work, column, true),
        FORWARD => {}
        PASS_ON => note_self(work),
        ASK => {
            if work.quest == 0 {
                note_elsewhere(work);
            }
            note_self(work);
            work.quest = MESH_ASK;
        }
        SETTLE => work.quest = MESH_SETTLE,
        COLLISION => return refuse(DropReason::FlowCollision),
        _ => return nobody(work),
    }
    send_on(skb, work, column)
}

#[inline(always)]
fn nobody(work: &Work) -> Code {
    if !work.headers.opens() {
        return refuse(DropReason::UnknownFlow);
    }
    if work.hop > 0 && work.headers.protocol == TCP && work.published.tasks != 0 {
        // The node before took this one for a task's: tables differ for a moment. The SYN comes again.
        return drop(DropReason::NoBackend);
    }
    refuse(DropReason::NoBackend)
}

/// Flows may be older than the table.
#[inline(always)]
fn rows_are_new(work: &Work) -> bool {
    let changed_s = work.published.changed_s;
    // The clock of packets may be some milliseconds behind user space's.
    changed_s != 0 && work.now_s <= changed_s + ROWS_ARE_NEW_S
}

/// A packet that the task in column `work.decision.here` would have opened a flow with, had nobody to be asked first. What
/// comes later goes the same way, for as long as the flow lives and after the table is new no more.
#[inline(never)]
fn note_elsewhere(work: &mut Work) -> u32 {
    let Some(task) = task(work, work.decision.here as usize) else {
        return 0;
    };
    let address = task.address;
    set_key(work, address.words_be[3]);
    if let Some(found) = flows::find(work) {
        flows::note_time(work, found.value);
        return 1;
    }
    let tuple = work.headers.tuple;
    work.value.dialed = Address::v4(tuple.destination_be);
    work.value.dialed_port_be = tuple.destination_port_be;
    work.value.task = address;
    work.value.task_port_be = work.published.target_port_be;
    work.value.origin = 0;
    work.value.flags = FLOW_ELSEWHERE;
    work.value.return_node = 0;
    // Without room the flow is only asked for while the table is new.
    u32::from(flows::create(work))
}

/// This node has looked among its own tasks.
#[inline(always)]
fn note_self(work: &mut Work) {
    if work.hop == 0 {
        work.entry_asked = MESH_ENTRY_ASKED;
    } else {
        let own = fingerprint(node(), work.hash);
        note(&mut work.asked, own);
    }
}

/// Untranslated: the task's node looks up for itself.
#[inline(always)]
fn send_on(skb: &mut Skb, work: &mut Work, column: usize) -> Code {
    let Some(task) = task(work, column) else {
        return refuse(DropReason::NoBackend);
    };
    // Before the rewrite: the answer may go to the sender's MAC.
    let remote = remote_of(task.node);
    if remote == 0 {
        return refuse(DropReason::DeadNode);
    }
    if is_too_big(skb, &work.headers, work.mtu) {
        work.teller_be = work.headers.destination_be;
        return TOO_BIG;
    }
    let vni = if work.hop == 0 {
        mesh_vni()
    } else {
        mesh_vni_forwarded()
    };
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let header = MeshHeader {
        kind: MESH_FORWARD,
        hop: work.hop as u8 + 1,
        flags: flag(work.flags & u32::from(FLOW_INGRESS) != 0, MESH_INGRESS)
            | flag(work.dedicated != 0, MESH_DEDICATED)
            | work.entry_asked
            | work.quest,
        asked: work.asked,
        node: work.entry,
    };
    let (destination, source) = header.macs();
    if set_macs(skb, destination, source).is_err() {
        return drop(DropReason::RewriteFailed);
    }
    to_remote_node(skb, vni, remote)
}

#[inline(always)]
fn deliver(skb: &mut Skb, work: &mut Work, column: usize, open: bool) -> Code {
    let Some(task) = task(work, column) else {
        return refuse(DropReason::NoBackend);
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
    let mut flags = work.flags as u8;
    if work.published.flags & PUBLISHED_DSR != 0 && work.origin == u32::from(ORIGIN_UPLINK) {
        flags |= FLOW_DSR;
    }
    if open {
        work.value.dialed = Address::v4(tuple.destination_be);
        work.value.dialed_port_be = tuple.destination_port_be;
        work.value.task = address;
        work.value.task_port_be = work.published.target_port_be;
        work.value.origin = work.origin as u8;
        work.value.flags = flags;
        work.value.return_node = work.entry;
        if !flows::create(work) {
            return refuse(DropReason::FlowTableFull);
        }
    } else if let Some(mut found) = flows::find(work) {
        // The client may come in elsewhere now: an address moved, or a router above changed its mind.
        if found.value.return_node != work.entry
            || found.value.origin != work.origin as u8
            || found.value.flags != flags
        {
            found.value.return_node = work.entry;
            found.value.origin = work.origin as u8;
            found.value.flags = flags;
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

/// A task's packet: if it is of a mesh flow of the task's address `task_be` in `work.network`, from the dialed address, back by
/// the node that [`exit`] names, or from here if the port says so.
#[inline(never)]
pub fn reply(skb: &mut Skb, work: &mut Work, task_be: u32) -> Code {
    let tuple = work.headers.tuple;
    let client = (tuple.destination_be, tuple.destination_port_be);
    flows::set_mesh_key(work, client.0, client.1, task_be, tuple.source_port_be);
    let Some(mut found) = flows::find(work) else {
        return UNDECIDED;
    };
    if found.value.flags & FLOW_ELSEWHERE != 0 {
        return UNDECIDED;
    }
    let dialed_be = found.value.dialed.words_be[3];
    let return_node = found.value.return_node;
    let origin = found.value.origin;
    let flags = u32::from(found.value.flags);
    work.to = Tuple {
        source_be: dialed_be,
        source_port_be: found.value.dialed_port_be,
        ..work.headers.tuple
    };
    if work.headers.form != FORM_ERROR {
        flows::touch_reverse(work, &mut found);
    }
    let client_be = client.0;
    // A client that is this node itself has no route out: it came by way of its entry node, and so does the reply.
    let direct = if flags & u32::from(FLOW_DSR) != 0 {
        route(skb, dialed_be, client_be)
    } else {
        0
    };
    let to_host_of = origin == ORIGIN_HOST;
    let exit = if direct != 0 {
        node()
    } else if to_host_of {
        return_node
    } else {
        exit(work, flags, dialed_be, return_node)
    };
    let remote = if exit == node() { 0 } else { remote_of(exit) };
    // A node that left the swarm is no way out; this one may be.
    let here = exit == node() || (remote == 0 && !to_host_of && is_own(dialed_be));
    if !here && remote == 0 {
        return drop(DropReason::DeadNode);
    }
    if !here && is_too_big(skb, &work.headers, work.mtu) {
        work.teller_be = gateway_of(work);
        return TOO_BIG;
    }
    if translate(skb, &work.headers, &work.to).is_err() {
        return drop(DropReason::RewriteFailed);
    }
    if direct != 0 {
        to_neighbour(skb, direct)
    } else if !here {
        let (destination, source) = MeshHeader::reply(node()).macs();
        if set_macs(skb, destination, source).is_err() {
            return drop(DropReason::RewriteFailed);
        }
        to_remote_node(skb, mesh_vni(), remote)
    } else if to_host_of {
        to_host(skb)
    } else {
        leave(skb, dialed_be, client_be)
    }
}

/// The node by which a packet leaves that has the dialed address as source. An ingress address: whoever holds it now, so
/// that a take-over moves all flows at once, those of silent clients too. Another address: the node that the client came
/// in through, and this one if that is gone and the address is here as well (several nodes may have it, behind a router).
#[inline(always)]
pub fn exit(work: &Work, flags: u32, dialed_be: u32, remembered: u32) -> u32 {
    let here = node();
    let address = Address::v4(dialed_be);
    if flags & u32::from(FLOW_INGRESS) != 0 {
        let holder = match unsafe { HOLDERS.get(address) } {
            Some(said) if work.now_s > said.told_s + HOLDER_IS_OLD_S => return remembered,
            Some(said) => said.node,
            None => 0,
        };
        if holder != 0 && holder != here && !is_marked(holder) {
            return holder;
        }
        let leaves_here = unsafe { OWN_ADDRESSES.get(address) }.is_some_and(|own| own.ifindex != 0);
        return if leaves_here { here } else { remembered };
    }
    if remembered != here && is_marked(remembered) && is_own(dialed_be) {
        return here;
    }
    remembered
}

/// Has this node the address, or could it send with it?
#[inline(always)]
fn is_own(address_be: u32) -> bool {
    unsafe { OWN_ADDRESSES.get(Address::v4(address_be)) }.is_some()
}

/// A translated reply at the node by which it leaves. Any node may do that for an ingress address, whoever holds it.
#[inline(always)]
pub fn leave(skb: &mut Skb, source_be: u32, client_be: u32) -> Code {
    if is_of_host(source_be) {
        return to_host(skb);
    }
    let Some(own) = (unsafe { OWN_ADDRESSES.get(Address::v4(source_be)) }) else {
        return drop(DropReason::MeshReturnUnknown);
    };
    let mut ifindex = own.ifindex;
    if ifindex == 0 {
        ifindex = route(skb, source_be, client_be);
        if ifindex == 0 {
            return drop(DropReason::NoRoute);
        }
    }
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
