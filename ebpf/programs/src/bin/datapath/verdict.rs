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
/// No outcome yet: the program goes on.
pub const UNDECIDED: Code = 2;
const DROP: Code = 0x100;
const ANSWERED: Code = 0x200;
const REFUSE: Code = 0x400;

/// Bits of a code that hold the reason.
const REASON: Code = 0x3f;

#[inline(always)]
pub const fn drop(reason: DropReason) -> Code {
    DROP | reason as u32
}

/// The packet of a refusal is gone, and what is left of it carries the answer.
#[inline(always)]
pub const fn answered(refusal: Code) -> Code {
    DROP | ANSWERED | (refusal & REASON)
}

/// The packet of a refusal is gone without an answer.
#[inline(always)]
pub const fn unanswered(refusal: Code) -> Code {
    DROP | (refusal & REASON)
}

/// Dropped, and the sender is told that nobody is there. Done at the end, where there is stack for it.
#[inline(always)]
pub const fn refuse(reason: DropReason) -> Code {
    REFUSE | reason as u32
}

/// Dropped, and the sender is told `work.mtu` by `work.teller_be`. Done at the end as well.
pub const TOO_BIG: Code = 0x800 | DropReason::TooBig as u32;

/// The reason of [`refuse`], if it is one.
#[inline(always)]
pub const fn is_refusal(code: Code) -> bool {
    code & REFUSE != 0
}

#[inline(always)]
pub fn finish(skb: &mut Skb, code: Code) -> i32 {
    count(0);
    if code & DROP != 0 {
        let reason = code & REASON;
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
