//! How an update begins and ends, in Swarm's words.

use super::{Round, Update};
use crate::core::rollout;
use crate::model::*;

fn say(round: &mut Round, service: &Service, status: UpdateStatus, step: SetUpdateStatus) {
    round.step(TaskAction::UpdateStatus(SetUpdateStatus {
        service_id: service.id.clone(),
        version: service.meta.version,
        status: Some(status),
        ..step
    }));
}

fn is_rollback(service: &Service) -> bool {
    service
        .update_status
        .as_ref()
        .is_some_and(|s| s.state == "rollback_started")
}

fn started_at(service: &Service) -> Option<Timestamp> {
    service.update_status.as_ref().and_then(|s| s.started_at)
}

/// A rollback has its status already.
pub fn begin(round: &mut Round, service: &Service, slots: u64) {
    let fresh = UpdateStatus {
        state: "updating".to_string(),
        started_at: Some(round.now),
        completed_at: None,
        message: "update in progress".to_string(),
    };
    let status = service.update_status.clone().unwrap_or(fresh);
    let step = SetUpdateStatus {
        begins: Some(slots),
        ..Default::default()
    };
    say(round, service, status, step);
}

pub fn complete(round: &mut Round, service: &Service) {
    let (state, message) = if is_rollback(service) {
        ("rollback_completed", "rollback completed")
    } else {
        ("completed", "update completed")
    };
    let status = UpdateStatus {
        state: state.to_string(),
        started_at: started_at(service),
        completed_at: Some(round.now),
        message: message.to_string(),
    };
    say(round, service, status, SetUpdateStatus::default());
}

/// Pauses the update or turns it back if too many of its tasks failed, or if one of them finds no end of starting.
/// Answers whether it did.
pub fn stop(round: &mut Round, update: &Update) -> bool {
    let action = update.config.failure_action();
    if action != FailureAction::Continue
        && let Some(task) = failed(update)
    {
        let why = format!("due to failure or early termination of task {}", task.id);
        end(round, update.service, action, &why);
        return true;
    }
    let deadline = rollout::deadline(update.service);
    for task in &update.waiting {
        let until = task.meta.created_at.saturating_add(deadline);
        if until > round.now {
            round.wake_at(until);
            continue;
        }
        let status = &task.status;
        let reason = if status.err.is_empty() {
            &status.message
        } else {
            &status.err
        };
        let why = format!(
            "because task {} does not run after {} s: {reason}",
            task.id,
            deadline / 1_000_000_000
        );
        end(round, update.service, action, &why);
        return true;
    }
    false
}

/// The task whose failure was one too many.
fn failed<'a>(update: &Update<'a>) -> Option<&'a Task> {
    let monitor = rollout::monitor(&update.config);
    let counts = |task: &&&Task| {
        let early = task.ran_at == 0 || task.failed_at.saturating_sub(task.ran_at) <= monitor;
        task.failed_at != 0 && early
    };
    let failures: Vec<&'a Task> = update.made.iter().filter(counts).copied().collect();
    let ratio = failures.len() as f32 / update.slots.max(1) as f32;
    if ratio <= update.config.max_failure_ratio {
        return None;
    }
    failures.into_iter().max_by_key(|t| (t.failed_at, &t.id))
}

/// A rollback is never rolled back.
fn end(round: &mut Round, service: &Service, action: FailureAction, why: &str) {
    let turns_back = action == FailureAction::Rollback;
    let (state, message) = match (is_rollback(service), turns_back) {
        (false, true) => ("rollback_started", format!("update rolled back {why}")),
        (false, false) => ("paused", format!("update paused {why}")),
        (true, true) => ("rollback_paused", format!("rollback paused {why}")),
        // So swarmkit says it.
        (true, false) => ("rollback_paused", format!("update paused {why}")),
    };
    let status = UpdateStatus {
        state: state.to_string(),
        started_at: started_at(service),
        completed_at: None,
        message,
    };
    let step = SetUpdateStatus {
        rollback: turns_back && !is_rollback(service),
        ..Default::default()
    };
    say(round, service, status, step);
}
