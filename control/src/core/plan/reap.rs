//! Deletes tasks that are no longer needed (swarmkit manager/orchestrator/taskreaper/task_reaper.go), and gives up
//! those whose node has been down too long.

use super::{Round, Services};
use crate::core::state::*;
use crate::model::*;

const DEFAULT_HISTORY: i64 = 5;

pub fn reap<'a>(round: &mut Round<'a, '_>, services: &Services<'a>) {
    let limit = round
        .state
        .cluster
        .as_ref()
        .and_then(|c| c.spec.task_history_limit);
    for (service_id, slot) in services.slots() {
        removed(round, slot);
        let service = round.state.services.get(service_id);
        history(
            round,
            slot,
            kept(limit.unwrap_or(DEFAULT_HISTORY), service.map(|s| &**s)),
            service.map(|s| &**s),
        );
    }
    lost(round);
}

/// How many tasks a slot keeps, the live one included; `None` = all. Restart attempts are counted in the history, so a
/// limit on them keeps as many.
fn kept(limit: i64, service: Option<&Service>) -> Option<usize> {
    let policy = service.and_then(|s| s.spec.task.restart.as_ref());
    match policy.and_then(|p| p.max_attempts) {
        Some(attempts) if attempts > 0 => usize::try_from(attempts.saturating_add(1)).ok(),
        _ => usize::try_from(limit).ok(),
    }
}

/// A task to be removed goes when it has ended, was never on a node, or its node is down: when that node comes back,
/// its first set of assignments tells it to stop what it still runs.
fn removed(round: &mut Round, slot: &[&Task]) {
    for task in slot
        .iter()
        .filter(|t| t.desired_state >= TaskState::Remove as i32)
    {
        let nobody_runs_it = !is_assigned(task) || has_ended(task) || !round.state.may_run(&task.node_id);
        if nobody_runs_it {
            round.step(TaskAction::Delete(task.id.clone()));
        }
    }
}

/// Number of the update or rollback under way; 0 if there is none.
fn under_way(service: &Service) -> u64 {
    let status = service.update_status.as_ref().map(|s| s.state.as_str());
    match (status, service.update_progress) {
        (Some("updating" | "rollback_started"), Some(progress)) => progress.number,
        _ => 0,
    }
}

/// Trims a slot's history, oldest first; the newest task stays, since it stands for the slot, and so does one that the
/// update under way made, since it says that the slot was taken and what came of it.
fn history<'a>(round: &mut Round<'a, '_>, slot: &[&'a Task], kept: Option<usize>, service: Option<&Service>) {
    let (Some(kept), Some(service)) = (kept, service) else {
        return;
    };
    let update = under_way(service);
    let mut surplus = slot.len().saturating_sub(kept);
    for task in slot.iter().take(slot.len().saturating_sub(1)) {
        if surplus == 0 {
            return;
        }
        let counts = update != 0 && update == task.update;
        // Tasks that a job completed stay wanted; those of an earlier run of it say nothing any more.
        let is_done = is_completed(task) && task.job_iteration != service.job.map(|job| job.iteration);
        let past = is_done || !is_wanted(task) && (has_ended(task) || !is_assigned(task));
        if counts || !past || task.desired_state >= TaskState::Remove as i32 {
            continue;
        }
        surplus -= 1;
        if is_done {
            round.desire(task, TaskState::Remove);
        } else {
            round.step(TaskAction::Delete(task.id.clone()));
        }
    }
}

fn lost(round: &mut Round) {
    for task in round
        .state
        .tasks
        .values()
        .filter(|t| !has_ended(t) && !is_wanted(t))
    {
        let Some(node) = round.node(task).filter(|n| n.state() == NodeState::Down) else {
            continue;
        };
        let until = node.down_since + LOST_REST;
        if until <= round.now {
            round.step(TaskAction::Orphan(task.id.clone()));
        } else {
            round.wake_at(until);
        }
    }
}
