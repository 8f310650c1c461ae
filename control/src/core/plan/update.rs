//! Replaces tasks that are not what their service asks for: one slot at a time, the old task stops before the new one
//! starts (swarmkit manager/orchestrator/update/updater.go with its defaults).

use std::collections::BTreeMap;

use super::{Round, Slots};
use crate::core::dirty::is_up_to_date;
use crate::core::state::*;
use crate::model::*;

/// Slots under replacement at once.
const PARALLELISM: usize = 1;

/// `standing` has the task that stands for each slot of the service.
pub fn service<'a>(
    round: &mut Round<'a, '_>,
    service: &'a Service,
    slots: &Slots<'a>,
    standing: &BTreeMap<u64, &'a Task>,
) {
    let mut dirty: Vec<&'a Task> = Vec::new();
    let mut under_way = 0;
    for (number, task) in standing {
        if !is_up_to_date(service, task, round.node(task)) {
            dirty.push(task);
        } else if is_settling(task, slots.get(number).map_or(0, Vec::len)) {
            under_way += 1;
        }
    }
    say(round, service, dirty.is_empty(), under_way == 0);
    // What does not run is replaced first: nothing is lost by it.
    dirty.sort_by_key(|t| (t.status.state == TaskState::Running as i32, t.slot));
    for task in dirty.into_iter().take(PARALLELISM.saturating_sub(under_way)) {
        let stops_first = is_wanted(task) && !task.node_id.is_empty();
        round.desire(task, TaskState::Shutdown);
        let slot = slots.get(&task.slot).map_or(&[][..], Vec::as_slice);
        let waits = stops_first || super::restart::is_blocked(round, slot);
        let desired = if waits {
            TaskState::Ready
        } else {
            TaskState::Running
        };
        round.create(service, task.slot, desired, 0);
    }
}

/// Whether a task took another's place and has yet to run: the next slot waits for it. A slot that scaling just made has
/// no history, and nothing waits for it.
fn is_settling(task: &Task, tasks_in_slot: usize) -> bool {
    is_wanted(task) && task.status.state < TaskState::Running as i32 && tasks_in_slot > 1
}

/// Keeps `UpdateStatus` in step, in Swarm's words.
fn say(round: &mut Round, service: &Service, clean: bool, settled: bool) {
    let known = service.update_status.as_ref();
    let state = known.map_or("", |s| s.state.as_str());
    let next = match (clean, settled, state) {
        (false, _, "updating" | "rollback_started" | "paused" | "rollback_paused") => return,
        (false, ..) => UpdateStatus {
            state: "updating".to_string(),
            started_at: Some(round.now),
            completed_at: None,
            message: "update in progress".to_string(),
        },
        (true, true, "updating" | "rollback_started") => {
            let rollback = state == "rollback_started";
            UpdateStatus {
                state: if rollback {
                    "rollback_completed"
                } else {
                    "completed"
                }
                .to_string(),
                started_at: known.and_then(|s| s.started_at),
                completed_at: Some(round.now),
                message: if rollback {
                    "rollback completed"
                } else {
                    "update completed"
                }
                .to_string(),
            }
        }
        _ => return,
    };
    round.step(TaskAction::UpdateStatus(SetUpdateStatus {
        service_id: service.id.clone(),
        status: Some(next),
    }));
}
