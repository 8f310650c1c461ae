//! The outside world, one file per external system.
//!
//! - [`docker`]: the node's Docker Engine.
//! - [`ledger`]: the assignments on disk.
//! - [`system`]: host facts: interfaces, names, capabilities.

pub mod docker;
pub mod ledger;
pub mod sockets;
pub mod system;
