//! The pure half of DNS: time and chance are arguments.

pub mod answer;
pub mod cache;
pub mod message;
pub mod upstreams;
