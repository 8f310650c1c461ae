//! Attach points: tcx (or clsact) ingress programs of a node, and (in `sockets`) programs on its own sockets. Everything they compute is in the library; what they look up
//! is in `maps`.
#![no_std]
#![no_main]

mod arp;
mod container;
mod flows;
mod host;
mod maps;
mod mesh;
mod overlay;
mod reply;
mod send;
mod skb;
mod sockets;
mod uplink;
mod verdict;
mod vip;
mod work;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use skb::Skb;
use verdict::{Code, finish};
use work::Work;

#[inline(always)]
fn run(context: TcContext, program: fn(&mut Skb, &mut Work) -> Code) -> i32 {
    if maps::gated() != 0 && maps::GATE.get(0).is_none_or(|open| *open == 0) {
        return TC_ACT_UNSPEC;
    }
    let mut skb = Skb::new(context.skb.skb);
    let code = match work::scratch() {
        Some(work) => {
            let code = program(&mut skb, work);
            reply::settle(&mut skb, work, code)
        }
        None => verdict::drop(skep_ebpf_common::DropReason::MissingConfig),
    };
    finish(&mut skb, code)
}

/// Ingress of the host side of a container's veth: what a container sends.
#[classifier]
pub fn from_container(context: TcContext) -> i32 {
    run(context, container::run)
}

/// Ingress of the VXLAN device: what other nodes send.
#[classifier]
pub fn from_overlay(context: TcContext) -> i32 {
    run(context, overlay::run)
}

/// Ingress of an uplink: what outside clients send.
#[classifier]
pub fn from_uplink(context: TcContext) -> i32 {
    run(context, uplink::run)
}

/// Ingress of the far end of the node's own veth pair: what the node's sockets send to its published ports.
#[classifier]
pub fn from_host(context: TcContext) -> i32 {
    run(context, host::run)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
