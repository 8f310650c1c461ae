//! What becomes of a task that ended or lost its node: the restart policy, its delay, and who waits for whom
//! (swarmkit manager/orchestrator/restart/restart.go).

use super::{Round, Services};
use crate::core::state::*;
use crate::model::*;

/// Between the end of a task and the start of its replacement, unless the policy says otherwise.
const DEFAULT_DELAY: Nanos = 5_000_000_000;

/// Why a wanted task must be replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// It failed, completed or was rejected: the restart delay applies.
    Ended,
    /// Its node is down, drained or gone: the replacement starts as soon as it may.
    NodeLost,
    /// Its node took no part in an update: as above.
    Outdated,
}

/// Whether a wanted task has to go.
pub fn leaving(round: &Round, task: &Task) -> Option<Leaving> {
    if !task.node_id.is_empty() && is_lost(round.node(task)) {
        return Some(Leaving::NodeLost);
    }
    (has_ended(task) || is_evicted(task)).then_some(Leaving::Ended)
}

/// Whether tasks have to leave the node.
pub fn is_lost(node: Option<&Node>) -> bool {
    node.is_none_or(|n| n.state() == NodeState::Down || n.spec.availability() == Availability::Drain)
}

/// Whether the policy wants another task in place of `task`, the newest of its place. Attempts count for one version of
/// the spec (of a job: for one iteration), and only those the history still holds. A job that is done is not run again,
/// whatever the policy says.
pub fn is_restarted(task: &Task, slot: &[&Task]) -> bool {
    let policy = task.spec.restart.as_ref();
    let completed = task.status.state == TaskState::Complete as i32;
    match policy.and_then(|p| p.condition.as_deref()).unwrap_or("any") {
        "none" => return false,
        "on-failure" if completed => return false,
        _ if is_completed(task) => return false,
        _ => {}
    }
    let max_attempts = policy.and_then(|p| p.max_attempts).unwrap_or(0);
    if max_attempts == 0 {
        return true;
    }
    let of_version = slot
        .iter()
        .filter(|t| t.spec_version == task.spec_version && t.job_iteration == task.job_iteration);
    let window = policy.and_then(|p| p.window).unwrap_or(0);
    // The managers' clock is one, the nodes' are many.
    let ended_at = if task.failed_at == 0 {
        task.status.timestamp
    } else {
        task.failed_at
    };
    let since = ended_at.saturating_sub(window);
    // What was shut down on a node of its own (drained and active again) is made anew without counting.
    let mut restarts = 0;
    let mut before: Option<&Task> = None;
    for next in of_version {
        let restart = before.is_some_and(|t| !t.preassigned || t.status.state != TaskState::Shutdown as i32);
        restarts += usize::from(restart && (window == 0 || next.meta.created_at > since));
        before = Some(next);
    }
    (restarts as u64) < max_attempts
}

/// When the replacement may start; 0 = at once.
pub fn start_not_before(round: &Round, task: &Task, leaving: Leaving) -> Timestamp {
    let delay = task.spec.restart.as_ref().and_then(|p| p.delay);
    match (leaving, delay.unwrap_or(DEFAULT_DELAY)) {
        (Leaving::NodeLost | Leaving::Outdated, _) | (Leaving::Ended, 0) => 0,
        (Leaving::Ended, delay) => round.now + delay,
    }
}

/// Whether the task ended while it waited for its own start (an image that is not there is noticed early): its replacement
/// comes when the delay is over, or a slot would be tried without any pause.
pub fn is_delayed(round: &Round, task: &Task, leaving: Leaving) -> bool {
    leaving == Leaving::Ended
        && task.desired_state == TaskState::Ready as i32
        && task.start_not_before > round.now
}

/// Whether a task of the slot that is no longer wanted may still run somewhere in reach: its successor waits.
pub fn is_blocked(round: &Round, slot: &[&Task]) -> bool {
    slot.iter()
        .any(|t| !is_wanted(t) && !has_ended(t) && is_assigned(t) && round.state.may_run(&t.node_id))
}

/// READY becomes RUNNING (for a job COMPLETE) when the delay is over and the predecessor has stopped.
pub fn start_waiting<'a>(round: &mut Round<'a, '_>, services: &Services<'a>) {
    for (_, slot) in services.slots() {
        for task in slot.iter().filter(|t| t.desired_state == TaskState::Ready as i32) {
            if round.touched.contains(task.id.as_str()) {
                continue;
            }
            if task.start_not_before > round.now {
                round.wake_at(task.start_not_before);
            } else if !is_blocked(round, slot) {
                let goal = if task.job_iteration.is_some() {
                    TaskState::Complete
                } else {
                    TaskState::Running
                };
                round.desire(task, goal);
            }
        }
    }
}
