//! Peer probes: nodes watch each other over the underlay and know within about a second who is gone.
//!
//! This is the fast one of the two clocks of liveness. It moves no task: a node that several peers miss is
//! marked, look-ups skip its tasks, and the mark goes when it answers. Marks are each node's own opinion and
//! are not stored anywhere.
//!
//! - [`core::message`]: the bytes of a probe, sealed with the swarm's key;
//! - [`core::judge`]: what follows from the probes heard, and from their absence;
//! - [`io::socket`]: the task that sends, receives and tells. It reads the peers from a watch channel and
//!   writes the marks and the round-trip times to two others.

pub mod core;
pub mod io;

pub use core::held::{Held, Reason};
pub use core::watched::{Lease, Peer, Watched};
pub use io::sink::Sink;
pub use io::socket::{DEFAULT_PORT, Probe, ProbeConfig, ProbeError, start};
