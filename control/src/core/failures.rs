//! What the leader remembers of tasks that failed, so that a node where a service keeps failing is tried last. It is
//! in no log and lost with the leader (swarmkit manager/scheduler/nodeinfo.go).

use std::collections::BTreeMap;

use super::state::ClusterState;
use crate::model::*;

/// How long a failure counts.
const WINDOW: Nanos = 5 * 60 * 1_000_000_000;
/// Fewer failures of a service on a node than this say nothing about the node.
const THRESHOLD: usize = 5;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct FailureMemory {
    /// By task: a task fails once.
    failures: BTreeMap<String, Failure>,
}

/// How often the tasks of a version of a service failed lately, by service, version and node.
pub type ByVersion<'a> = BTreeMap<(&'a str, u64), BTreeMap<&'a str, usize>>;

#[derive(Clone, Debug, PartialEq)]
struct Failure {
    node_id: String,
    service_id: String,
    spec_version: u64,
    at: Timestamp,
}

impl FailureMemory {
    /// Takes in the failures that the state shows and forgets old ones. To be called before each [`super::plan::plan`];
    /// seeing a state twice changes nothing.
    pub fn observe(&mut self, state: &ClusterState, now: Timestamp) {
        for task in state.tasks.values() {
            let status = task.status.state();
            let failed = status == TaskState::Failed || status == TaskState::Rejected;
            if failed && !task.node_id.is_empty() && task.withdrawn_at == 0 {
                self.failures.entry(task.id.clone()).or_insert_with(|| Failure {
                    node_id: task.node_id.clone(),
                    service_id: task.service_id.clone(),
                    spec_version: task.spec_version,
                    at: task.meta.updated_at.min(now),
                });
            }
        }
        self.failures.retain(|_, failure| failure.at + WINDOW > now);
    }

    /// Failures that count against nodes; nodes below the threshold are absent.
    pub fn by_version(&self, now: Timestamp) -> ByVersion<'_> {
        let mut counts = ByVersion::new();
        for failure in self.failures.values().filter(|f| f.at + WINDOW > now) {
            let of_version = counts
                .entry((failure.service_id.as_str(), failure.spec_version))
                .or_default();
            *of_version.entry(failure.node_id.as_str()).or_default() += 1;
        }
        for of_version in counts.values_mut() {
            of_version.retain(|_, count| *count >= THRESHOLD);
        }
        counts
    }
}
