//! Answers made of the packet that is refused.

use skep_ebpf_common::{DropReason, MeshHeader};
use skep_ebpf_programs::answer::{CODE_PORT, CODE_TOO_BIG, icmp_error, reset};
use skep_ebpf_programs::checksum::{fold, sum};
use skep_ebpf_programs::packet::{L3, Packet, Refused};
use skep_ebpf_programs::parse::{FORM_ERROR, FORM_LATER_FRAGMENT, ICMP, ICMP_ECHO_REQUEST, TCP, TCP_RST};

use crate::maps::{mesh_vni, node};
use crate::mesh;
use crate::send::{into_peer, out_of, to_mesh_node};
use crate::skb::Skb;
use crate::verdict::{Code, REDIRECTED, TOO_BIG, answered, drop, is_refusal, unanswered};
use crate::work::{BACK_MESH, BACK_PEER, Work};

/// IP header and the 8 bytes of transport that an ICMP error must quote.
const QUOTED: usize = 28;
const L4: usize = L3 + 20;

/// Sends the answer that a program asked for with its outcome.
#[inline(always)]
pub fn settle(skb: &mut Skb, work: &mut Work, code: Code) -> Code {
    if code == TOO_BIG {
        return too_big(skb, work);
    }
    if is_refusal(code) {
        refuse(skb, work, code)
    } else {
        code
    }
}

/// Tells the sender that nobody is there: RST for TCP, port unreachable otherwise.
#[inline(never)]
fn refuse(skb: &mut Skb, work: &mut Work, code: Code) -> Code {
    let made = if work.headers.protocol == TCP && work.headers.form != FORM_ERROR {
        make_reset(skb, work)
    } else {
        make_error(skb, work, CODE_PORT, 0, work.headers.destination_be)
    };
    match made {
        Ok(()) => back(skb, work, code),
        Err(Refused) => unanswered(code),
    }
}

/// Tells the sender the largest packet that fits (RFC 1191).
#[inline(never)]
fn too_big(skb: &mut Skb, work: &mut Work) -> Code {
    match make_error(skb, work, CODE_TOO_BIG, work.mtu as u16, work.teller_be) {
        Ok(()) => back(skb, work, TOO_BIG),
        Err(Refused) => unanswered(TOO_BIG),
    }
}

/// Answers an echo request in the name of its destination.
#[inline(always)]
pub fn echo(skb: &mut Skb, work: &mut Work) -> Code {
    let l4 = work.headers.l4 as usize;
    let request = u16::from_ne_bytes([ICMP_ECHO_REQUEST, 0]);
    let source = work.headers.source_be.to_ne_bytes();
    let destination = work.headers.destination_be.to_ne_bytes();
    let [d0, d1, d2, d3] = destination;
    let [s0, s1, s2, s3] = source;
    let made = skb
        .replace_l4_word(l4 + 2, request, 0, false)
        .and_then(|()| skb.store(l4, &[0]))
        .and_then(|()| skb.store(L3 + 12, &[d0, d1, d2, d3, s0, s1, s2, s3]));
    if made.is_err() {
        return drop(DropReason::ReplyFailed);
    }
    match send_back(skb, work) {
        REDIRECTED => REDIRECTED,
        code => code,
    }
}

/// A packet with IP options is refused without a word: the answer has none, and an offloaded checksum is tied to its place.
#[inline(always)]
fn has_options(work: &Work) -> bool {
    work.headers.l4 as usize != L4
}

#[inline(always)]
fn make_reset(skb: &mut Skb, work: &Work) -> Result<(), Refused> {
    let headers = &work.headers;
    if has_options(work) || headers.form == FORM_LATER_FRAGMENT || headers.tcp_flags & TCP_RST != 0 {
        return Err(Refused);
    }
    let middle: [u8; 12] = skb.load(L4 + 4)?;
    let payload = headers.length.saturating_sub(20 + u16::from(headers.l4_header));
    let reset = reset(&headers.tuple, &middle, payload);
    skb.resize((L4 + 20) as u32)?;
    skb.store(L3, &reset.ip)?;
    skb.store(L4, &reset.tcp)?;
    skb.add_to_checksum(L4 + 16, fold(reset.remainder).to_be())
}

#[inline(always)]
fn make_error(skb: &mut Skb, work: &Work, code: u8, mtu: u16, source_be: u32) -> Result<(), Refused> {
    let headers = &work.headers;
    let about_error = headers.form == FORM_ERROR
        || (headers.protocol == ICMP && headers.icmp_type != ICMP_ECHO_REQUEST && headers.icmp_type != 0);
    if has_options(work) || about_error || headers.form == FORM_LATER_FRAGMENT {
        return Err(Refused);
    }
    let quoted: [u8; QUOTED] = skb.load(L3)?;
    let (ip, icmp) = icmp_error(
        code,
        mtu,
        source_be,
        headers.source_be,
        sum(&quoted, 0),
        QUOTED as u16,
    );
    skb.resize((L4 + 8 + QUOTED) as u32)?;
    skb.store(L3, &ip)?;
    skb.store(L4, &icmp)?;
    skb.store(L4 + 8, &quoted)
}

#[inline(always)]
fn back(skb: &mut Skb, work: &Work, refusal: Code) -> Code {
    match send_back(skb, work) {
        REDIRECTED => answered(refusal),
        code => code,
    }
}

/// The packet is an answer now: the way it came, MACs swapped, or to the node the client came in through.
#[inline(always)]
fn send_back(skb: &mut Skb, work: &Work) -> Code {
    if work.back == BACK_MESH {
        let (dialed_be, client_be) = (work.headers.destination_be, work.headers.source_be);
        let exit = mesh::exit(work, work.flags, dialed_be, work.entry);
        if exit == node() {
            return mesh::leave(skb, dialed_be, client_be);
        }
        return to_mesh_node(skb, mesh_vni(), exit, MeshHeader::reply(node()));
    }
    let Ok(m) = skb.load::<12>(0) else {
        return drop(DropReason::ReplyFailed);
    };
    let swapped = [
        m[6], m[7], m[8], m[9], m[10], m[11], m[0], m[1], m[2], m[3], m[4], m[5],
    ];
    if skb.store(0, &swapped).is_err() {
        return drop(DropReason::ReplyFailed);
    }
    let ifindex = skb.ifindex();
    if work.back == BACK_PEER {
        into_peer(skb, ifindex)
    } else {
        out_of(skb, ifindex)
    }
}
