//! BPF_PROG_TEST_RUN: one packet through a loaded program, with what it decided.

use std::time::Duration;

use aya::Ebpf;
use aya::programs::{ProgramError, TestRun, TestRunOptions};
use skep_ebpf_common::{DropReason, VERDICT_DROP, VERDICT_PASS, VERDICT_REDIRECT};

use crate::io::attach::Program;
use crate::io::object::{self, ObjectError};
use crate::io::whole;

/// Offsets in `struct __sk_buff` (linux/bpf.h).
const IFINDEX: usize = 40;
const CB: usize = 48;
const GSO_SIZE: usize = 176;
const CONTEXT: usize = 192;
/// Longest packet that comes back.
const ROOM: usize = 16_384;

#[derive(Debug, thiserror::Error)]
pub enum TestRunError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("run {program} on a test packet: {}", whole(source))]
    Run {
        program: &'static str,
        source: ProgramError,
    },
    #[error("{program} left verdict {verdict} with reason {reason}, which mean nothing")]
    Verdict {
        program: &'static str,
        verdict: u32,
        reason: u32,
    },
}

/// A packet and how often it runs.
#[derive(Debug, Clone)]
pub struct TestPacket<'a> {
    pub bytes: &'a [u8],
    /// Interface it arrives on.
    pub ifindex: u32,
    /// Payload bytes per segment; 0: one packet.
    pub segment_size: u32,
    pub repeat: u32,
}

/// What a program decided, from `skb->cb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// How (a `REDIRECT_` value), the interface, and for tunnels the VNI and the outer address.
    Redirect {
        how: u32,
        ifindex: u32,
        vni: u32,
        remote: u32,
    },
    Drop(DropReason),
}

/// What came of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestOutcome {
    pub verdict: Verdict,
    /// What the program returned to tc.
    pub action: i32,
    pub bytes: Vec<u8>,
    /// Mean time of one run.
    pub duration: Duration,
}

pub fn run(
    object: &mut Ebpf,
    program: Program,
    packet: &TestPacket<'_>,
) -> Result<TestOutcome, TestRunError> {
    let name = program.name();
    let mut context_in = [0_u8; CONTEXT];
    context_in[IFINDEX..IFINDEX + 4].copy_from_slice(&packet.ifindex.to_ne_bytes());
    context_in[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&packet.segment_size.to_ne_bytes());
    let mut context_out = [0_u8; CONTEXT];
    let mut bytes = vec![0_u8; ROOM];
    let options = TestRunOptions {
        data_in: Some(packet.bytes),
        data_out: Some(&mut bytes),
        ctx_in: Some(&context_in),
        ctx_out: Some(&mut context_out),
        repeat: packet.repeat,
        ..TestRunOptions::default()
    };
    let result = object::get(object, program)?
        .test_run(options)
        .map_err(|source| TestRunError::Run {
            program: name,
            source,
        })?;
    bytes.truncate(result.data_size_out as usize);
    let note = |slot: usize| {
        let at = CB + slot * 4;
        u32::from_ne_bytes([
            context_out[at],
            context_out[at + 1],
            context_out[at + 2],
            context_out[at + 3],
        ])
    };
    let nonsense = || TestRunError::Verdict {
        program: name,
        verdict: note(0),
        reason: note(1),
    };
    let verdict = match note(0) {
        VERDICT_PASS => Verdict::Pass,
        VERDICT_REDIRECT => Verdict::Redirect {
            how: note(1),
            ifindex: note(2),
            vni: note(3),
            remote: note(4),
        },
        VERDICT_DROP => Verdict::Drop(DropReason::from_number(note(1)).ok_or_else(nonsense)?),
        _ => return Err(nonsense()),
    };
    Ok(TestOutcome {
        verdict,
        action: result.return_value as i32,
        bytes,
        duration: result.duration,
    })
}
