//! Where the probes' findings go at once, on the probes' own thread.

use crate::probe::core::held::Held;

/// Told on the probes' thread: whatever blocks here delays every probe and every lease.
pub trait Sink: Send + 'static {
    /// A peer is marked as gone, or its mark goes.
    fn mark(&mut self, node: u32, alive: bool);

    /// A peer is marked, or was: its agent does not answer, but its host's kernel does, and serves what it has.
    fn silent(&mut self, node: u32);

    /// Who holds the address of a lease. `own_until_ns`: this node's own hold runs until then (CLOCK_MONOTONIC);
    /// None: it is not the holder. Told at every change and every renewal.
    fn lease(&mut self, index: u32, held: &Held, own_until_ns: Option<u64>);

    /// Whether this node may take the address now: it has the interface, with carrier. `alone`: and, by the rule for
    /// two nodes, is connected though it misses the other.
    fn may_hold(&mut self, index: u32, alone: bool) -> bool;
}
