//! Keeps a replicated service at its number of slots (swarmkit manager/orchestrator/replicated/services.go).

use std::collections::{BTreeMap, BTreeSet};

use super::{Fate, fate, remove, replace};
use crate::core::plan::update::{self, slot};
use crate::core::plan::{MAX_STEPS, Round, Slots};
use crate::core::state::*;
use crate::model::*;

pub fn service<'a>(round: &mut Round<'a, '_>, service: &'a Service, slots: &Slots<'a>) {
    let mut fates: BTreeMap<Place<'a>, Fate<'a>> = slots
        .iter()
        .map(|(place, slot)| (*place, fate(round, service, slot)))
        .collect();
    let replicas = replicas_of(&service.spec);
    let occupied = fates.values().filter(|f| f.task().is_some()).count() as u64;
    if occupied > replicas {
        for slot in surplus(&fates, occupied - replicas) {
            fates.insert(slot, Fate::Dead);
        }
    }
    for (place, slot) in slots {
        if let Some(Fate::Kept(task) | Fate::Replaced(task, _)) = fates.get(place) {
            slot::clear(round, slot, task);
        }
        match fates.get(place) {
            Some(Fate::Kept(_)) | None => {}
            Some(Fate::Finished(task)) => round.desire(task, TaskState::Shutdown),
            Some(Fate::Replaced(task, leaving)) => replace(round, service, slot, task, *leaving),
            Some(Fate::Dead) if occupied > replicas || *place > Place::Slot(replicas) || is_removed(slot) => {
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
        .filter_map(|(place, fate)| match fate {
            Fate::Kept(task) | Fate::Finished(task) => Some((*place, *task)),
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

/// New tasks in the lowest slots that nothing stands in.
fn fill<'a>(
    round: &mut Round<'a, '_>,
    service: &Service,
    slots: &Slots<'a>,
    fates: &BTreeMap<Place<'a>, Fate<'a>>,
    mut missing: u64,
) {
    let taken = |place: &Place| fates.get(place).is_some_and(|f| f.task().is_some());
    let mut number = 1;
    while missing > 0 && round.plan.steps.len() < MAX_STEPS {
        let place = Place::Slot(number);
        if !taken(&place) {
            super::fill(round, service, slots, place);
            missing -= 1;
        }
        number += 1;
    }
}

/// Which slots go when there are too many: first those that do not run, then those on nodes with most tasks of the
/// service; among equals the highest.
fn surplus<'a>(fates: &BTreeMap<Place<'a>, Fate>, count: u64) -> BTreeSet<Place<'a>> {
    let mut idle = Vec::new();
    let mut running: BTreeMap<&str, Vec<Place>> = BTreeMap::new();
    for (place, fate) in fates {
        match fate {
            Fate::Kept(task) if task.status.state == TaskState::Running as i32 => {
                running.entry(&task.node_id).or_default().push(*place);
            }
            Fate::Dead => {}
            _ => idle.push(*place),
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
