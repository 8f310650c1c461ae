//! Who is gone and who holds which ingress address, written past the tables: from the probes' thread, at once.

use std::net::IpAddr;

use aya::maps::{HashMap, MapData};
use skep_ebpf_common::{Address, HolderValue, MARK_GONE, MARK_SILENT};

use super::{Datapath, DatapathError};
use crate::core::contents::address;
use crate::io::maps;

/// Handles of its own to the pinned maps of marks and holders, to be used on whatever thread. What it wrote stays in the
/// kernel when it is dropped.
pub struct Liveness {
    marks: HashMap<MapData, u32, u32>,
    holders: HashMap<MapData, Address, HolderValue>,
}

impl std::fmt::Debug for Liveness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Liveness").finish_non_exhaustive()
    }
}

impl Datapath {
    /// Handles by which marks and holders are written while the data plane itself is busy.
    ///
    /// # Errors
    /// When the pinned maps cannot be opened.
    pub fn liveness(&self) -> Result<Liveness, DatapathError> {
        Ok(Liveness {
            marks: maps::open_pinned(&self.pins, "MARKS")?,
            holders: maps::open_pinned(&self.pins, "HOLDERS")?,
        })
    }

    /// The clock of [`Liveness::hold`]: CLOCK_MONOTONIC in nanoseconds.
    ///
    /// # Errors
    /// When the clock cannot be read.
    pub fn monotonic_ns() -> Result<u64, DatapathError> {
        // 64 bits of nanoseconds are 584 years of uptime.
        Ok(Self::now()?.as_nanos() as u64)
    }
}

impl Liveness {
    /// Look-ups skip the tasks of a node that is not alive, and its flows are refused. Marks outlive the agent: what
    /// [`Liveness::marked`] says and no probe confirms is to be taken back.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn mark(&mut self, node: u32, alive: bool) -> Result<(), DatapathError> {
        if alive {
            Ok(maps::remove(&mut self.marks, "MARKS", &node)?)
        } else {
            Ok(maps::insert(&mut self.marks, "MARKS", node, MARK_GONE)?)
        }
    }

    /// The agent of a node does not answer, but its kernel does: nothing new goes there, and what is there goes on.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn silent(&mut self, node: u32) -> Result<(), DatapathError> {
        Ok(maps::insert(&mut self.marks, "MARKS", node, MARK_SILENT)?)
    }

    /// The nodes that are marked now.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn marked(&self) -> Result<std::collections::BTreeSet<u32>, DatapathError> {
        Ok(maps::keys(&self.marks, "MARKS")?.into_iter().collect())
    }

    /// `holder`: through whom replies of the address leave; `None`: nobody is known. `until_ns`: CLOCK_MONOTONIC until which
    /// this node answers ARP for it, see [`Datapath::monotonic_ns`]; `None`: it does not. To be said again within
    /// [`skep_ebpf_common::HOLDER_IS_OLD_S`]: later replies leave through the node that the client came in through.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn hold(
        &mut self,
        address: IpAddr,
        holder: Option<u32>,
        until_ns: Option<u64>,
    ) -> Result<(), DatapathError> {
        let value = HolderValue {
            node: holder.unwrap_or(0),
            told_s: Datapath::now()?.as_secs() as u32,
            until_ns: until_ns.unwrap_or(0),
        };
        Ok(maps::insert(
            &mut self.holders,
            "HOLDERS",
            self::address(address),
            value,
        )?)
    }

    /// The address belongs to the swarm no more.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn forget(&mut self, address: IpAddr) -> Result<(), DatapathError> {
        Ok(maps::remove(
            &mut self.holders,
            "HOLDERS",
            &self::address(address),
        )?)
    }
}
