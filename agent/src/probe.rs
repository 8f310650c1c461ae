//! Peer probes: nodes watch each other over the underlay, know within half a second who is gone, and agree on who
//! holds which address.
//!
//! This is the fast one of the two clocks of liveness. It moves no task: a node that several peers miss is
//! marked, look-ups skip its tasks, and the mark goes when it answers. Marks are each node's own opinion and
//! are not stored anywhere. Leases need no manager either: the managers only say who may hold an address and whose
//! majority decides.
//!
//! - [`core::message`]: the bytes of a datagram, sealed with the swarm's key: every one is a probe, and carries more;
//! - [`core::judge`]: who is alive, by the datagrams heard, and by their absence;
//! - [`core::lease`]: who holds an address;
//! - [`core::withdrawn`]: which tasks their own nodes say have ended;
//! - [`core::node`]: all of it behind one clock, an outbox and a list of events;
//! - [`io::socket`]: the handle: it starts the thread, whose findings can be read from watch channels;
//! - [`io::thread`]: the thread that sends, receives and waits, ahead of others ([`io::priority`]); it reads what it is
//!   asked to watch from a watch channel, and tells findings to the [`Sink`] before anything else.

pub mod core;
pub mod io;
#[cfg(test)]
mod simulation;

pub use core::held::{Held, Reason};
pub use core::watched::{Lease, Peer, Watched};
pub use io::sink::Sink;
pub use io::socket::{DEFAULT_PORT, Probe, ProbeConfig, ProbeError, start};
