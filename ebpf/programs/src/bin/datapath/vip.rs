//! A service's virtual address inside a network. The client's node holds the flow.

use skep_ebpf_common::hash::{flow_hash, scale};
use skep_ebpf_common::state::is_over;
use skep_ebpf_common::{Address, BackendKey, DropReason, ENDPOINT_SERVING, EndpointValue, RST};
use skep_ebpf_programs::parse::{FORM_ERROR, FORM_WHOLE, ICMP, ICMP_ECHO_REQUEST, TCP, Tuple, UDP};
use skep_ebpf_programs::translate::translate;

use crate::container::{gateway_of, to_remote};
use crate::maps::{BACKENDS, ENDPOINTS, is_gone, is_marked};
use crate::send::{endpoint_key, is_too_big, to_local};
use crate::skb::Skb;
use crate::verdict::{Code, TOO_BIG, drop, refuse};
use crate::work::Work;
use crate::{flows, reply};

/// Backends tried before a client is told that there is none; more than one only while nodes are gone.
const TRIES: u32 = 8;

/// A packet of a container to a VIP of its network with this many backends.
#[inline(never)]
pub fn forward(skb: &mut Skb, work: &mut Work, backends: u32) -> Code {
    let headers = &work.headers;
    if headers.protocol == ICMP && headers.form == FORM_WHOLE && headers.icmp_type == ICMP_ECHO_REQUEST {
        return reply::echo(skb, work);
    }
    if headers.protocol != TCP && headers.protocol != UDP {
        return drop(DropReason::UnsupportedProtocol);
    }
    if work.source_vip_be == headers.destination_be && hairpin_reply(work) {
        return deliver_translated(skb, work);
    }
    let tuple = work.headers.tuple;
    flows::set_vip_key(
        work,
        tuple.source_be,
        tuple.source_port_be,
        tuple.destination_be,
        tuple.destination_port_be,
    );
    let opens = work.headers.opens();
    match flows::find(work) {
        Some(mut found)
            if !(opens && (is_over(found.value) || !is_serving(work, found.value.task.words_be[3]))) =>
        {
            let task_be = found.value.task.words_be[3];
            if !flows::touch_forward(work, &mut found) {
                return refuse(DropReason::FlowTableFull);
            }
            set_forward(work, task_be);
        }
        _ if !opens => return refuse(DropReason::UnknownFlow),
        _ => match pick(work, backends) {
            0 => return refuse(DropReason::NoBackend),
            task_be => {
                work.value.dialed = Address::v4(tuple.destination_be);
                work.value.dialed_port_be = tuple.destination_port_be;
                work.value.task = Address::v4(task_be);
                work.value.task_port_be = tuple.destination_port_be;
                work.value.origin = 0;
                work.value.flags = 0;
                work.value.return_node = 0;
                if !flows::create(work) {
                    return refuse(DropReason::FlowTableFull);
                }
                set_forward(work, task_be);
            }
        },
    }
    deliver_translated(skb, work)
}

/// The task becomes the destination; a task that calls its own VIP is given the VIP as source.
#[inline(always)]
fn set_forward(work: &mut Work, task_be: u32) {
    let from = work.headers.tuple;
    work.to = Tuple {
        source_be: if task_be == from.source_be {
            from.destination_be
        } else {
            from.source_be
        },
        destination_be: task_be,
        ..from
    };
}

/// The reply of a task to itself: back from the VIP. Its flow's client is the task.
#[inline(always)]
fn hairpin_reply(work: &mut Work) -> bool {
    let from = work.headers.tuple;
    flows::set_vip_key(
        work,
        from.source_be,
        from.destination_port_be,
        from.destination_be,
        from.source_port_be,
    );
    let Some(mut found) = flows::find(work) else {
        return false;
    };
    if found.value.task.words_be[3] != from.source_be {
        return false;
    }
    flows::touch_reverse(work, &mut found);
    work.to = Tuple {
        source_be: from.destination_be,
        destination_be: from.source_be,
        ..from
    };
    true
}

/// If the packet answers a VIP flow of a client on this node, sets what the client expects. The sender stands behind
/// `work.source_vip_be`.
#[inline(always)]
pub fn reverse(work: &mut Work) -> bool {
    let from = work.headers.tuple;
    let vip_be = work.source_vip_be;
    flows::set_vip_key(
        work,
        from.destination_be,
        from.destination_port_be,
        vip_be,
        from.source_port_be,
    );
    let Some(mut found) = flows::find(work) else {
        return false;
    };
    if found.value.task.words_be[3] != from.source_be {
        return false;
    }
    // A flow that is over is not answered like this: the client calls the task itself now, from a port it called the VIP
    // from before. The entry stays, and is nobody's: removed, it could come back from the tables of another layout.
    if work.headers.accepts() && is_over(found.value) {
        found.value.task = Address::default();
        return false;
    }
    if work.headers.form != FORM_ERROR {
        flows::touch_reverse(work, &mut found);
    }
    work.to = Tuple {
        source_be: vip_be,
        ..from
    };
    true
}

#[inline(always)]
fn endpoint(work: &Work, address_be: u32) -> Option<&'static EndpointValue> {
    // SAFETY: plain numbers that user space replaces as a whole.
    unsafe { ENDPOINTS.get(endpoint_key(work.network, address_be)) }
}

/// Does the task still take new flows? A datagram may be of a flow that is not new, and a node without its agent keeps those.
#[inline(always)]
fn is_serving(work: &Work, task_be: u32) -> bool {
    let Some(endpoint) = endpoint(work, task_be) else {
        return false;
    };
    let away = if work.headers.protocol == TCP {
        is_marked(endpoint.node)
    } else {
        is_gone(endpoint.node)
    };
    endpoint.flags & ENDPOINT_SERVING != 0 && !away
}

/// One of the backends, by hash, passing over dead nodes; 0 if there is none.
#[inline(always)]
fn pick(work: &Work, backends: u32) -> u32 {
    let from = work.headers.tuple;
    let client = Address::v4(from.source_be);
    let seed = u64::from(from.destination_be) ^ u64::from(work.now_s) << 32;
    let hash = flow_hash(
        seed,
        &client,
        from.source_port_be,
        from.destination_port_be,
        work.headers.protocol,
    );
    let mut slot = scale(hash, backends);
    let mut key = BackendKey {
        network: work.network,
        slot,
        vip: Address::v4(from.destination_be),
    };
    for _ in 0..TRIES {
        key.slot = slot;
        // SAFETY: plain numbers.
        if let Some(backend) = unsafe { BACKENDS.get(key) }
            && !is_marked(backend.node)
        {
            return backend.address.words_be[3];
        }
        slot = if slot + 1 < backends { slot + 1 } else { 0 };
    }
    0
}

/// The flow of `work.key` has no task any more.
#[inline(never)]
fn end(work: &mut Work) {
    if let Some(found) = flows::find(work) {
        found.value.reverse |= RST;
    }
}

/// `work.to` is decided.
#[inline(always)]
fn deliver_translated(skb: &mut Skb, work: &mut Work) -> Code {
    let task_be = work.to.destination_be;
    let Some(endpoint) = endpoint(work, task_be) else {
        return refuse(DropReason::NoSuchEndpoint);
    };
    let (ifindex, node) = (endpoint.ifindex, endpoint.node);
    if ifindex == 0 && is_gone(node) {
        end(work);
        return refuse(DropReason::DeadNode);
    }
    // Before the rewrite: the error must quote what the sender sent.
    if ifindex == 0 && is_too_big(skb, &work.headers, work.mtu) {
        work.teller_be = gateway_of(work);
        return TOO_BIG;
    }
    if translate(skb, &work.headers, &work.to).is_err() {
        return drop(DropReason::RewriteFailed);
    }
    if ifindex != 0 {
        to_local(skb, task_be, ifindex)
    } else {
        to_remote(skb, work, task_be, node)
    }
}
