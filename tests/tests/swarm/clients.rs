//! What clients of the API see: logs, versions, events, and the tools that Swarm's users run, each the real one.

pub mod api;
pub mod logs;
pub mod sockets;
pub mod tools;
