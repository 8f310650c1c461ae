//! The flow table as user space sees it.

use std::net::IpAddr;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use skep_ebpf_common::state::{is_established, is_over, lifetime_s};
use skep_ebpf_common::{FLOW_MESH, FlowValue};

use super::{Datapath, DatapathError};
use crate::core::contents::address;
use crate::tables::FlowReport;

impl Datapath {
    /// Number of established flows towards a task's address that this node holds: mesh flows of its own tasks, and VIP
    /// flows of its own clients to any task.
    ///
    /// # Errors
    /// When the flow table cannot be read.
    pub fn established_flows_to(&self, vni: u32, address: IpAddr) -> Result<u64, DatapathError> {
        let task = self::address(address);
        let flows = self.maps.flows.all()?;
        let counted = flows.iter().filter(|(key, value)| {
            let to = if key.kind == FLOW_MESH {
                key.server
            } else {
                value.task
            };
            key.network == vni && to == task && is_established(value) && !is_over(value)
        });
        Ok(counted.count() as u64)
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

    /// Removes flows that are over or idle for too long. `now` is CLOCK_MONOTONIC, see [`Datapath::now`].
    ///
    /// # Errors
    /// When the flow table cannot be read or written.
    pub fn collect_flows(&mut self, now: Duration) -> Result<FlowReport, DatapathError> {
        let mut report = FlowReport::default();
        let now_s = now.as_secs() as u32;
        let expired = |protocol: u8, value: &FlowValue| {
            now_s.saturating_sub(value.last_seen_s) > lifetime_s(protocol, value)
        };
        for (key, value) in self.maps.flows.all()? {
            if expired(key.protocol, &value) {
                self.maps.flows.remove(&key)?;
                report.expired += 1;
            } else {
                report.established += 1;
            }
        }
        for (key, value) in self.maps.half_open.all()? {
            if expired(key.protocol, &value) {
                self.maps.half_open.remove(&key)?;
                report.expired += 1;
            } else {
                report.half_open += 1;
            }
        }
        Ok(report)
    }
}
