//! What each service's places need: a task made, replaced or taken away. One file for each mode.

mod global;
mod jobs;
mod replicated;

use super::restart::{self, Leaving};
use super::update::slot;
use super::{Round, Slots};
use crate::core::state::*;
use crate::model::*;

pub fn service<'a>(round: &mut Round<'a, '_>, service: &'a Service, slots: &Slots<'a>) {
    match &service.spec.mode {
        Some(ServiceMode::Global(_)) => global::service(round, service, slots),
        Some(ServiceMode::ReplicatedJob(job)) => jobs::replicated(round, service, job, slots),
        Some(ServiceMode::GlobalJob(_)) => jobs::global(round, service, slots),
        Some(ServiceMode::Replicated(_)) | None => replicated::service(round, service, slots),
    }
}

/// The tasks of a service that is gone.
pub fn remove_all<'a>(round: &mut Round<'a, '_>, slots: &Slots<'a>) {
    for slot in slots.values() {
        remove(round, slot);
    }
}

/// What a place is, before anything is done about it.
enum Fate<'a> {
    /// A wanted task stays.
    Kept(&'a Task),
    /// The wanted task has to go; another takes its place.
    Replaced(&'a Task, Leaving),
    /// The task ended, and its policy wants no other. It stands for the place until the service changes.
    Finished(&'a Task),
    /// Only leftovers.
    Dead,
}

impl<'a> Fate<'a> {
    fn task(&self) -> Option<&'a Task> {
        match self {
            Fate::Kept(task) | Fate::Replaced(task, _) | Fate::Finished(task) => Some(task),
            Fate::Dead => None,
        }
    }
}

fn fate<'a>(round: &Round<'a, '_>, service: &Service, slot: &[&'a Task]) -> Fate<'a> {
    if let Some(wanted) = slot::standing(round, service, slot) {
        return match restart::leaving(round, wanted) {
            None => Fate::Kept(wanted),
            Some(_) if !restart::is_restarted(wanted, slot) => Fate::Finished(wanted),
            Some(leaving) => Fate::Replaced(wanted, leaving),
        };
    }
    let newest = slot.last().filter(|t| t.desired_state < TaskState::Remove as i32);
    match newest {
        Some(task) if !restart::is_restarted(task, slot) => Fate::Finished(task),
        _ => Fate::Dead,
    }
}

fn remove<'a>(round: &mut Round<'a, '_>, slot: &[&'a Task]) {
    for task in slot {
        round.desire(task, TaskState::Remove);
    }
}

fn shut_down<'a>(round: &mut Round<'a, '_>, slot: &[&'a Task]) {
    for task in slot.iter().filter(|t| takes_place(t)) {
        round.desire(task, TaskState::Shutdown);
    }
}

fn replace<'a>(
    round: &mut Round<'a, '_>,
    service: &Service,
    slot: &[&'a Task],
    task: &'a Task,
    leaving: Leaving,
) {
    if restart::is_delayed(round, task, leaving) {
        round.wake_at(task.start_not_before);
        return;
    }
    round.desire(task, TaskState::Shutdown);
    if task.moves && slot::is_served(round, slot, task) {
        return;
    }
    let not_before = restart::start_not_before(round, task, leaving);
    let stops_first = !has_ended(task) && round.state.may_run(&task.node_id);
    let waits = not_before != 0 || stops_first || restart::is_blocked(round, slot);
    round.create(CreateTask {
        start_not_before: not_before,
        beside: slot::is_served(round, slot, task),
        ..new_task(service, place_of(task), waits)
    });
}

/// A task for a place; one that waits prepares meanwhile.
pub fn new_task(service: &Service, place: Place, waits: bool) -> CreateTask {
    let desired = if waits {
        TaskState::Ready
    } else {
        TaskState::Running
    };
    let (slot, node_id) = match place {
        Place::Slot(slot) => (slot, String::new()),
        Place::Node(id) => (0, id.to_string()),
    };
    CreateTask {
        service_id: service.id.clone(),
        slot,
        node_id,
        desired_state: desired as i32,
        ..Default::default()
    }
}

/// Fills a place that nothing stands in.
fn fill<'a>(round: &mut Round<'a, '_>, service: &Service, slots: &Slots<'a>, place: Place<'a>) {
    let blocked = slots
        .get(&place)
        .is_some_and(|slot| restart::is_blocked(round, slot));
    round.create(new_task(service, place, blocked));
}
