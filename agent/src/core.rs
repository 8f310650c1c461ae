//! Pure functions of the agent: no clock, no chance, no file, no socket.
//!
//! In reading order:
//! - [`desired`]: what this node is asked to be.
//! - [`plan`]: what to do next about it.
//! - [`names`]: what the node's DNS answers.
//! - [`template`], [`resolv`]: texts of a task.
//! - [`backoff`]: how long to wait before the next try.
//! - [`address`]: which address a node joins a swarm with.

pub mod address;
pub mod backoff;
pub mod desired;
pub mod names;
pub mod plan;
pub mod resolv;
pub mod role;
pub mod sockets;
pub mod template;
