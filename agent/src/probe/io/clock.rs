//! The clock of the probes: CLOCK_MONOTONIC, which the kernel's programs compare with, too.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since the machine's start.
pub fn monotonic() -> nix::Result<Duration> {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from)
}
