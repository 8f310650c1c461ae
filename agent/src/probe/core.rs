//! The pure half of peer probes: time is an argument.

pub mod judge;
pub mod message;
