//! One slot under replacement. With start-first it has two wanted tasks for a while: the one that runs, and beside it the
//! one that is to take its place.

use super::{Round, restart};
use crate::core::dirty::is_up_to_date;
use crate::core::plan::orchestrate::new_task;
use crate::core::state::*;
use crate::model::*;

/// The task that stands for a slot, of those wanted: one that is what the service asks for before one that is not, one
/// that runs before one that does not, a newer before an older.
pub fn standing<'a>(round: &Round, service: &Service, slot: &[&'a Task]) -> Option<&'a Task> {
    let wanted = || slot.iter().copied().filter(|t| is_wanted(t));
    if wanted().count() < 2 {
        return wanted().next();
    }
    // What makes room for a task elsewhere stands only until that one runs.
    let leaves = |task: &Task| {
        wanted().any(|t| t.moves && t.id != task.id && t.meta.created_at >= task.meta.created_at)
    };
    let clean = |task: &&Task| is_up_to_date(service, task, round.node(task)) && !leaves(task);
    wanted()
        .rfind(|t| clean(t) && runs(t))
        .or_else(|| wanted().rfind(clean))
        .or_else(|| wanted().next_back())
}

/// Shuts down what `standing` makes superfluous: a task that runs stays until `standing` runs, any other goes.
pub fn clear<'a>(round: &mut Round<'a, '_>, slot: &[&'a Task], standing: &Task) {
    for task in slot.iter().filter(|t| is_wanted(t) && t.id != standing.id) {
        if runs(standing) || !serves(round, task) {
            round.desire(task, TaskState::Shutdown);
        }
    }
}

/// Whether a task other than `standing` serves the slot until another runs.
pub fn is_served(round: &Round, slot: &[&Task], standing: &Task) -> bool {
    slot.iter().any(|t| t.id != standing.id && serves(round, t))
}

fn runs(task: &Task) -> bool {
    task.status.state == TaskState::Running as i32
}

fn serves(round: &Round, task: &Task) -> bool {
    is_wanted(task) && runs(task) && restart::leaving(round, task).is_none()
}

/// Another task beside the one that runs. Where nothing runs there is nothing to wait for.
pub fn start_first<'a>(round: &mut Round<'a, '_>, service: &Service, slot: &[&'a Task], task: &'a Task) {
    let Some(serving) = slot.iter().rfind(|t| serves(round, t)) else {
        return stop_first(round, service, slot, task);
    };
    for other in slot.iter().filter(|t| is_wanted(t) && t.id != serving.id) {
        round.desire(other, TaskState::Shutdown);
    }
    round.create(CreateTask {
        by_update: true,
        beside: true,
        ..new_task(service, place_of(task), false)
    });
}

/// The slot's tasks stop; the new one prepares meanwhile and starts when they have.
pub fn stop_first<'a>(round: &mut Round<'a, '_>, service: &Service, slot: &[&'a Task], task: &'a Task) {
    let mut waits = restart::is_blocked(round, slot);
    for old in slot.iter().filter(|t| is_wanted(t)) {
        waits |= is_assigned(old);
        round.desire(old, TaskState::Shutdown);
    }
    round.create(CreateTask {
        by_update: true,
        ..new_task(service, place_of(task), waits)
    });
}
