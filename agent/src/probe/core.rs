//! The pure half of peer probes: time is an argument.

pub mod held;
pub mod hosts;
pub mod judge;
pub mod lease;
pub mod message;
pub mod node;
pub mod watched;
pub mod withdrawn;
