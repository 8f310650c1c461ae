//! What kernel and user space share: bytes, and the few functions both must agree on ([`hash`], [`state`]).
//!
//! Every type is `repr(C)` without implicit padding, so it can be a map key. Numbers in network byte order carry the
//! suffix `_be`. Nothing here is changed in place: another layout is another pin directory ([`LAYOUT`]).
#![no_std]

mod address;
mod drop_reason;
mod flow;
pub mod hash;
mod sockets;
pub mod state;
mod tables;
mod verdict;

pub use address::*;
pub use drop_reason::DropReason;
pub use flow::*;
pub use sockets::*;
pub use tables::*;
pub use verdict::*;

/// Version of the layout of all maps; part of the pin directory's name.
pub const LAYOUT: u32 = 3;
