//! How a service is updated, and what is remembered while one is; how a container's health is found.

use prost::{Enumeration, Message};

use super::spec::Nanos;

/// Of a spec's `UpdateConfig` or `RollbackConfig` (moby api/types/swarm/service.go). A spec without one means [`UpdateConfig::standard`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct UpdateConfig {
    /// Slots under replacement at once; 0 = all.
    #[prost(uint64, tag = "1")]
    pub parallelism: u64,
    /// Between a slot's new task runs and the next slot is taken.
    #[prost(int64, tag = "2")]
    pub delay: Nanos,
    #[prost(enumeration = "FailureAction", tag = "3")]
    pub failure_action: i32,
    /// How long a new task that ends counts as failed, from the moment it runs; 0 = 5 s.
    #[prost(int64, tag = "4")]
    pub monitor: Nanos,
    /// Failed tasks by slots to replace: above it, the failure action is taken.
    #[prost(float, tag = "5")]
    pub max_failure_ratio: f32,
    #[prost(enumeration = "UpdateOrder", tag = "6")]
    pub order: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum FailureAction {
    Pause = 0,
    Continue = 1,
    Rollback = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum UpdateOrder {
    StopFirst = 0,
    StartFirst = 1,
}

impl UpdateConfig {
    /// What a spec without one means (swarmkit api/defaults/service.go).
    pub fn standard() -> UpdateConfig {
        UpdateConfig {
            parallelism: 1,
            ..UpdateConfig::default()
        }
    }
}

/// Of the update or rollback that a service's `UpdateStatus` tells of: what the planner has to know whoever leads.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct UpdateProgress {
    /// Raft index at which it began: the tasks it makes carry it.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Slots that were to be replaced when it began.
    #[prost(uint64, tag = "2")]
    pub slots: u64,
}

/// moby api/types/container HealthConfig. Zero and empty mean what the image says, else the Engine's defaults.
#[derive(Clone, PartialEq, Message)]
pub struct HealthConfig {
    /// `NONE`, or `CMD` with arguments, or `CMD-SHELL` with a line.
    #[prost(string, repeated, tag = "1")]
    pub test: Vec<String>,
    #[prost(int64, tag = "2")]
    pub interval: Nanos,
    #[prost(int64, tag = "3")]
    pub timeout: Nanos,
    #[prost(int64, tag = "4")]
    pub retries: i64,
    #[prost(int64, tag = "5")]
    pub start_period: Nanos,
    #[prost(int64, tag = "6")]
    pub start_interval: Nanos,
}
