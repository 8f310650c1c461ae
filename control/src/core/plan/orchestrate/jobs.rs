//! Tasks that run to their end (swarmkit manager/orchestrator/jobs). Every update of a job is a new iteration, and only its
//! tasks count; those of older ones that still run are removed.

use std::collections::BTreeSet;

use super::global::meets_constraints;
use super::{fill, remove, replace, shut_down};
use crate::core::plan::restart::{self, Leaving};
use crate::core::plan::{MAX_STEPS, Round, Slots};
use crate::core::state::*;
use crate::model::*;

/// What a place of this iteration is.
enum Fate<'a> {
    Runs,
    /// The task failed or lost its node.
    Replaced(&'a Task, Leaving),
    /// The task failed, and its policy wants no other.
    Failed(&'a Task),
    Completed,
    /// Nothing is there, or only leftovers.
    Open,
}

fn fate<'a>(round: &Round, slot: &[&'a Task]) -> Fate<'a> {
    if slot.iter().any(|t| is_completed(t)) {
        return Fate::Completed;
    }
    if let Some(wanted) = slot.iter().rfind(|t| is_wanted(t)) {
        return match restart::leaving(round, wanted) {
            None => Fate::Runs,
            Some(_) if !restart::is_restarted(wanted, slot) => Fate::Failed(wanted),
            Some(leaving) => Fate::Replaced(wanted, leaving),
        };
    }
    match slot.last() {
        Some(task) if !restart::is_restarted(task, slot) => Fate::Failed(task),
        _ => Fate::Open,
    }
}

/// The place's tasks of this iteration. Older ones that run are sent away; those that ended stay as a slot's history, but a
/// node has none.
fn of_iteration<'a>(round: &mut Round<'a, '_>, service: &Service, slot: &[&'a Task]) -> Vec<&'a Task> {
    let iteration = service.job.map(|job| job.iteration);
    let (current, older): (Vec<&Task>, Vec<&Task>) =
        slot.iter().copied().partition(|t| t.job_iteration == iteration);
    let gone = |task: &&Task| task.preassigned || !has_ended(task);
    let gone: Vec<&Task> = older.into_iter().filter(gone).collect();
    remove(round, &gone);
    current
}

/// One completed task in each slot at the end, and no more at a time than the job says.
pub fn replicated<'a>(
    round: &mut Round<'a, '_>,
    service: &'a Service,
    job: &ReplicatedJob,
    slots: &Slots<'a>,
) {
    let (mut running, mut over) = (0u64, 0u64);
    let mut taken = BTreeSet::new();
    for (place, slot) in slots {
        let slot = of_iteration(round, service, slot);
        match fate(round, &slot) {
            Fate::Open => continue,
            Fate::Completed => over += 1,
            Fate::Failed(task) => {
                round.desire(task, TaskState::Shutdown);
                over += 1;
            }
            Fate::Replaced(task, leaving) => {
                replace(round, service, &slot, task, leaving);
                running += 1;
            }
            Fate::Runs => running += 1,
        }
        taken.insert(*place);
    }
    let open = job.total_completions.saturating_sub(over + running);
    let mut missing = open.min(job.max_concurrent.saturating_sub(running));
    let mut number = 0;
    while missing > 0 && number < job.total_completions && round.plan.steps.len() < MAX_STEPS {
        let place = Place::Slot(number);
        if !taken.contains(&place) {
            fill(round, service, slots, place);
            missing -= 1;
        }
        number += 1;
    }
}

/// One completed task on every node that meets the constraints, now or later.
pub fn global<'a>(round: &mut Round<'a, '_>, service: &'a Service, slots: &Slots<'a>) {
    let mut taken = BTreeSet::new();
    for (place, slot) in slots {
        let Place::Node(id) = place else {
            continue;
        };
        let Some(node) = round.state.nodes.get(*id) else {
            remove(round, slot);
            continue;
        };
        let slot = of_iteration(round, service, slot);
        if restart::is_lost(Some(node)) {
            shut_down(round, &slot);
            continue;
        }
        match fate(round, &slot) {
            Fate::Open => continue,
            Fate::Runs | Fate::Completed => {}
            Fate::Failed(task) => round.desire(task, TaskState::Shutdown),
            Fate::Replaced(task, leaving) => replace(round, service, &slot, task, leaving),
        }
        taken.insert(*place);
    }
    for (id, node) in &round.state.nodes {
        let place = Place::Node(id);
        let takes = node.state() == NodeState::Ready
            && node.spec.availability() == Availability::Active
            && meets_constraints(service, node);
        if takes && !taken.contains(&place) {
            fill(round, service, slots, place);
        }
    }
}
