//! User space of the data plane: load, attach, pin, typed maps, test runs.
//!
//! In reading order: [`tables`] is what a caller says, `core` turns it into map contents without touching anything,
//! `io` is the kernel, and [`Datapath`] ties them together.

mod core;
mod datapath;
mod io;
mod tables;

pub use crate::core::rows;
pub use crate::core::sizes::{BYTES_PER_FLOW, max_flows};
pub use crate::core::sockets::stand_ins;
pub use datapath::{Build, Datapath, DatapathError, FlowTables, Liveness};
pub use io::attach::{Hook, Program};
pub use io::kernel::{check_kernel, hook as hook_of_kernel};
pub use io::test_run::{TestOutcome, TestPacket, Verdict};
pub use skep_ebpf_common::{DropReason, GATEWAY_MAC, GUARD_MARK, STAND_INS, STAND_INS_PREFIX};
pub use tables::*;
