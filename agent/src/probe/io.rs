//! The probes' outside world: one UDP socket.

pub mod socket;
