//! The probes' outside world: one UDP socket, a thread and a clock, and where the findings go.

pub mod clock;
pub mod knock;
pub mod priority;
pub mod sink;
pub mod socket;
pub mod thread;
