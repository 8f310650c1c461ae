//! Rejects tasks whose node no longer meets their constraints or has what they reserved (swarmkit
//! manager/orchestrator/constraintenforcer).

use std::collections::BTreeMap;

use super::Round;
use super::schedule::room::reserved;
use crate::core::constraint::{self, Constraint};
use crate::core::generic::Stock;
use crate::core::state::*;
use crate::model::*;

/// What an active node has left for its tasks, the oldest first.
struct Left<'a> {
    node: &'a Node,
    /// Nanoseconds of CPU a second, and bytes; `None` while its Engine has told nothing.
    capacity: Option<(i64, i64)>,
    generic: Stock,
}

/// Drained nodes lose their tasks anyway, those of paused nodes are left alone.
pub fn enforce<'a>(round: &mut Round<'a, '_>) {
    let mut left: BTreeMap<&str, Left> = BTreeMap::new();
    for node in round.state.nodes.values() {
        if node.spec.availability() == Availability::Active {
            left.insert(&node.id, Left::new(node));
        }
    }
    let mut parsed: BTreeMap<(&str, u64), Option<Vec<Constraint>>> = BTreeMap::new();
    for task in oldest_first(round) {
        let Some(left) = left.get_mut(task.node_id.as_str()) else {
            continue;
        };
        let (spec, version) = measure(round.state, task);
        let constraints = parsed
            .entry((&task.service_id, version))
            .or_insert_with(|| constraint::parse_all(constraints_of(spec)));
        let met = constraints
            .as_ref()
            .is_none_or(|all| constraint::all_met(all, left.node));
        if !met || !left.take(task) {
            round.touched.insert(&task.id);
            round.step(TaskAction::Evict(task.id.clone()));
        }
    }
}

/// What the task is measured by: what its service says now, which may have changed without a new task. While an update is
/// to replace it, what it was made from: the update replaces tasks at its own pace.
fn measure<'a>(state: &'a ClusterState, task: &'a Task) -> (&'a TaskSpec, u64) {
    let settled = |service: &Service| {
        let update = service.update_status.as_ref().map_or("", |s| s.state.as_str());
        task.spec_version == service.spec_version || matches!(update, "completed" | "rollback_completed")
    };
    match state.services.get(&task.service_id).filter(|s| settled(s)) {
        Some(service) => (&service.spec.task, service.spec_version),
        None => (&task.spec, task.spec_version),
    }
}

fn constraints_of(spec: &TaskSpec) -> &[String] {
    spec.placement.as_ref().map_or(&[], |p| &p.constraints)
}

/// Tasks that could be rejected: wanted, on a node, not ended, and with something that a node can fail to have.
fn oldest_first<'a>(round: &Round<'a, '_>) -> Vec<&'a Task> {
    let is_asked = |task: &&Task| {
        is_wanted(task)
            && task.status.state >= TaskState::Assigned as i32
            && !has_ended(task)
            && !is_evicted(task)
            && !round.touched.contains(task.id.as_str())
            && (reserved(&task.spec) != (0, 0)
                || !task.generic.is_empty()
                || !constraints_of(&task.spec).is_empty()
                || !constraints_of(measure(round.state, task).0).is_empty())
    };
    let tasks = round.state.tasks.values().map(|t| &**t);
    let mut tasks: Vec<&Task> = tasks.filter(is_asked).collect();
    tasks.sort_by_key(|t| (t.meta.created_at, &t.id));
    tasks
}

impl<'a> Left<'a> {
    fn new(node: &'a Node) -> Left<'a> {
        let description = node.description.as_ref();
        let capacity = description.map(|d| (d.nano_cpus, d.memory));
        Left {
            node,
            capacity: capacity.filter(|c| *c != (0, 0)),
            generic: Stock::new(description.map_or(&[], |d| &d.generic)),
        }
    }

    /// False if the node has not what the task was promised.
    fn take(&mut self, task: &Task) -> bool {
        let Some((nano_cpus, memory)) = self.capacity else {
            return true;
        };
        let (asked_cpus, asked_memory) = reserved(&task.spec);
        if asked_cpus > nano_cpus.max(0) || asked_memory > memory.max(0) || !self.generic.has(&task.generic) {
            return false;
        }
        self.capacity = Some((nano_cpus - asked_cpus, memory - asked_memory));
        self.generic.take(&task.generic);
        true
    }
}
