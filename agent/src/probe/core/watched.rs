//! What the probes are asked to watch: the other nodes, the leases of addresses, and this node's ended tasks.

use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Another node (this one may be in the list; it is left out).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub index: u32,
    pub address: SocketAddr,
}

/// An address that one node at a time holds, as the managers committed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Names the address in messages; never reused.
    pub index: u32,
    /// Rises with every change of owners or observers.
    pub epoch: u64,
    /// Who may hold it, best first.
    pub owners: Vec<u32>,
    /// Whose majority grants it.
    pub observers: Vec<u32>,
}

/// All that a node's probes follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    pub peers: Vec<Peer>,
    pub leases: Vec<Lease>,
    /// Hashes of this node's tasks that have ended though they should run; its peers are told.
    pub withdrawn: BTreeSet<u64>,
}
