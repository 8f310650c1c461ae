//! Keeps a replicated service at its number of slots (swarmkit manager/orchestrator/replicated/services.go).

use std::collections::{BTreeMap, BTreeSet};

use super::restart::{self, Leaving};
use super::update::{self, slot};
use super::{Round, Slots};
use crate::core::state::*;
use crate::model::*;

/// What a slot is, before anything is done about it.
enum Fate<'a> {
    /// A wanted task stays.
    Kept(&'a Task),
    /// The wanted task has to go; another takes its place.
    Replaced(&'a Task, Leaving),
    /// The task ended, and its policy wants no other. It stands for the slot until the service changes.
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

pub fn service<'a>(round: &mut Round<'a, '_>, service: &'a Service, slots: &Slots<'a>) {
    let mut fates: BTreeMap<u64, Fate<'a>> = slots
        .iter()
        .map(|(n, slot)| (*n, fate(round, service, slot)))
        .collect();
    let replicas = replicas_of(&service.spec);
    let occupied = fates.values().filter(|f| f.task().is_some()).count() as u64;
    if occupied > replicas {
        for slot in surplus(&fates, occupied - replicas) {
            fates.insert(slot, Fate::Dead);
        }
    }
    for (number, slot) in slots {
        if let Some(Fate::Kept(task) | Fate::Replaced(task, _)) = fates.get(number) {
            slot::clear(round, slot, task);
        }
        match fates.get(number) {
            Some(Fate::Kept(_)) | None => {}
            Some(Fate::Finished(task)) => round.desire(task, TaskState::Shutdown),
            Some(Fate::Replaced(task, leaving)) => replace(round, service, slot, task, *leaving),
            Some(Fate::Dead) if occupied > replicas || *number > replicas || is_removed(slot) => {
                remove(round, slot)
            }
            Some(Fate::Dead) => {}
        }
    }
    if occupied < replicas {
        fill(round, service, slots, &fates, replicas - occupied);
    }
    let standing = fates
        .iter()
        .filter_map(|(number, fate)| match fate {
            Fate::Kept(task) | Fate::Finished(task) => Some((*number, *task)),
            Fate::Replaced(..) | Fate::Dead => None,
        })
        .collect();
    update::service(round, service, slots, &standing);
}

/// Whether the slot was given up by an earlier scale-down, and not just emptied.
fn is_removed(slot: &[&Task]) -> bool {
    slot.last()
        .is_some_and(|t| t.desired_state >= TaskState::Remove as i32)
}

/// The tasks of a service that is gone.
pub fn remove_all<'a>(round: &mut Round<'a, '_>, slots: &Slots<'a>) {
    for slot in slots.values() {
        remove(round, slot);
    }
}

fn remove<'a>(round: &mut Round<'a, '_>, slot: &[&'a Task]) {
    for task in slot {
        round.desire(task, TaskState::Remove);
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
    let not_before = restart::start_not_before(round, task, leaving);
    let stops_first = !has_ended(task) && round.state.may_run(&task.node_id);
    let waits = not_before != 0 || stops_first || restart::is_blocked(round, slot);
    let desired = if waits {
        TaskState::Ready
    } else {
        TaskState::Running
    };
    round.create(CreateTask {
        service_id: service.id.clone(),
        slot: task.slot,
        desired_state: desired as i32,
        start_not_before: not_before,
        beside: slot::is_served(round, slot, task),
        ..Default::default()
    });
}

/// New tasks in the lowest slots that nothing stands in.
fn fill<'a>(
    round: &mut Round<'a, '_>,
    service: &Service,
    slots: &Slots<'a>,
    fates: &BTreeMap<u64, Fate<'a>>,
    mut missing: u64,
) {
    let taken = |number: &u64| fates.get(number).is_some_and(|f| f.task().is_some());
    let mut number = 1;
    while missing > 0 && round.plan.steps.len() < super::MAX_STEPS {
        if !taken(&number) {
            let blocked = slots
                .get(&number)
                .is_some_and(|slot| restart::is_blocked(round, slot));
            let desired = if blocked {
                TaskState::Ready
            } else {
                TaskState::Running
            };
            round.create(CreateTask {
                service_id: service.id.clone(),
                slot: number,
                desired_state: desired as i32,
                ..Default::default()
            });
            missing -= 1;
        }
        number += 1;
    }
}

/// Which slots go when there are too many: first those that do not run, then those on nodes with most tasks of the
/// service; among equals the highest.
fn surplus(fates: &BTreeMap<u64, Fate>, count: u64) -> BTreeSet<u64> {
    let mut idle = Vec::new();
    let mut running: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (number, fate) in fates {
        match fate {
            Fate::Kept(task) if task.status.state == TaskState::Running as i32 => {
                running.entry(&task.node_id).or_default().push(*number);
            }
            Fate::Dead => {}
            _ => idle.push(*number),
        }
    }
    let mut surplus = BTreeSet::new();
    for _ in 0..count {
        let next = idle.pop().or_else(|| {
            let fullest = running
                .values_mut()
                .max_by_key(|slots| (slots.len(), slots.last().copied()))?;
            fullest.pop()
        });
        surplus.extend(next);
    }
    surplus
}
