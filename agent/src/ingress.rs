//! Ingress addresses on this node: where they belong, and what holding one means here.
//!
//! Who holds an address is decided by the leases of [`crate::probe`]. What follows from it at once (the kernel's map of
//! holders, ARP) happens on the probes' thread, in [`io::sink`]; what may take a while (the address on the interface,
//! the hook, log lines) in a task of its own, [`io::caretaker`], which reads who holds what from a watch channel.
//!
//! - [`core`]: pure: places, ARP packets and their schedule, what interfaces carry, ended tasks;
//! - [`io`]: raw sockets, rtnetlink, the hook, the sink of the probes.

pub mod core;
pub mod io;

use std::collections::BTreeMap;

use nix::sys::socket::LinkAddr;

use crate::ingress::core::place::Places;

/// Where this node would carry each address.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grounds {
    pub places: Places,
    /// By index of the interface: where raw packets are sent to.
    pub devices: BTreeMap<u32, LinkAddr>,
}
