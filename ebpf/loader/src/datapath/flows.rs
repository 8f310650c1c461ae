//! The flow tables as user space sees them.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use skep_ebpf_common::state::{is_established, is_over, lifetime_s};
use skep_ebpf_common::{FLOW_MESH, FlowKey, FlowValue};

use super::{Datapath, DatapathError};
use crate::core::contents::address;
use crate::io::flows::{ESTABLISHED, FlowTable, HALF_OPEN};
use crate::tables::{FlowReport, FlowUsage};

/// Both flow tables, through handles of their own: reading a full one takes a while, and whoever does that (on a thread that
/// may block) keeps nobody from the rest of the data plane.
#[derive(Debug)]
pub struct FlowTables {
    pub(super) established: FlowTable,
    pub(super) half_open: FlowTable,
}

impl FlowTables {
    pub(super) fn open(pins: &Path) -> Result<Self, DatapathError> {
        Ok(Self {
            established: FlowTable::open(pins, ESTABLISHED)?,
            half_open: FlowTable::open(pins, HALF_OPEN)?,
        })
    }

    /// Number of established flows towards a task's address that this node holds: mesh flows of its own tasks, and VIP
    /// flows of its own clients to any task.
    ///
    /// # Errors
    /// When the flow table cannot be read.
    pub fn established_to(&self, vni: u32, address: IpAddr) -> Result<u64, DatapathError> {
        let task = self::address(address);
        let mut count = 0;
        self.established.walk(|key, value| {
            let to = if key.kind == FLOW_MESH {
                key.server
            } else {
                value.task
            };
            let lives = is_established(&value) && !is_over(&value);
            count += u64::from(key.network == vni && to == task && lives);
        })?;
        Ok(count)
    }

    /// Removes flows that are over or idle for too long. `now` is CLOCK_MONOTONIC, see [`Datapath::now`].
    ///
    /// # Errors
    /// When a flow table cannot be read or written.
    pub fn collect(&self, now: Duration) -> Result<FlowReport, DatapathError> {
        let now_s = now.as_secs() as u32;
        let (established, expired) = collect(&self.established, now_s)?;
        let (half_open, expired_half_open) = collect(&self.half_open, now_s)?;
        Ok(FlowReport {
            established,
            half_open,
            expired: expired + expired_half_open,
        })
    }

    /// How full both tables are, by counting.
    ///
    /// # Errors
    /// When a flow table cannot be read.
    pub fn usage(&self) -> Result<FlowUsage, DatapathError> {
        Ok(FlowUsage {
            established: self.established.usage()?,
            half_open: self.half_open.usage()?,
        })
    }
}

/// How many flows stay and how many went.
fn collect(table: &FlowTable, now_s: u32) -> Result<(u64, u64), DatapathError> {
    let expired = |key: &FlowKey, value: &FlowValue| {
        now_s.saturating_sub(value.last_seen_s) > lifetime_s(key.protocol, value)
    };
    let mut found = 0;
    let mut old = Vec::new();
    table.walk(|key, value| {
        found += 1;
        if expired(&key, &value) {
            old.push(key);
        }
    })?;
    let mut removed = 0;
    for key in &old {
        removed += u64::from(table.remove_if(key, |value| expired(key, value))?);
    }
    Ok((found - removed, removed))
}

impl Datapath {
    /// Handles to the flow tables; they outlive this value.
    ///
    /// # Errors
    /// When the pinned maps cannot be opened.
    pub fn flow_tables(&self) -> Result<FlowTables, DatapathError> {
        FlowTables::open(&self.pins)
    }

    /// Time as flows are stamped with it: CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// When the clock cannot be read.
    pub fn now() -> Result<Duration, DatapathError> {
        let now =
            clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| DatapathError::Clock(errno.into()))?;
        Ok(Duration::from(now))
    }
}
