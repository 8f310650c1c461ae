//! Outcomes, counted so that passed + redirected + dropped is what came in.

use aya_ebpf::bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC};
use skep_ebpf_common::{DropReason, VERDICT_DROP, VERDICT_PASS, VERDICT_REDIRECT};

use crate::maps::{COUNTERS, DROPS};
use crate::skb::Skb;

/// An outcome as a plain number, so that it can cross a call between subprograms.
pub type Code = u32;

/// To the node's stack (and to other programs on the interface).
pub const PASS: Code = 0;
/// A redirect helper was called last.
pub const REDIRECTED: Code = 1;
const DROP: Code = 0x100;
const ANSWERED: Code = 0x200;

#[inline(always)]
pub const fn drop(reason: DropReason) -> Code {
    DROP | reason as u32
}

/// The packet is gone for this reason, and what is left of it carries the answer.
#[inline(always)]
pub const fn answered(reason: DropReason) -> Code {
    DROP | ANSWERED | reason as u32
}

#[inline(always)]
pub fn finish(skb: &mut Skb, code: Code) -> i32 {
    count(0);
    if code & DROP != 0 {
        let reason = code & 0x3f;
        skb.set_note(0, VERDICT_DROP);
        skb.set_note(1, reason);
        count(3);
        if let Some(slot) = DROPS.get_ptr_mut(reason) {
            // SAFETY: this CPU's own slot.
            unsafe { *slot += 1 };
        }
        return if code & ANSWERED != 0 {
            TC_ACT_REDIRECT
        } else {
            TC_ACT_SHOT
        };
    }
    if code == REDIRECTED {
        skb.set_note(0, VERDICT_REDIRECT);
        count(2);
        return TC_ACT_REDIRECT;
    }
    skb.set_note(0, VERDICT_PASS);
    count(1);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn count(slot: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: this CPU's own slot.
        unsafe { *counter += 1 };
    }
}
