//! The pure half of peer probes: time is an argument.

pub mod held;
pub mod judge;
pub mod message;
pub mod watched;
