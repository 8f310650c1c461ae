//! The probes' outside world: one UDP socket, and where the findings go.

pub mod sink;
pub mod socket;
