//! One task on every node that meets the service's constraints (swarmkit manager/orchestrator/global/global.go).
//!
//! A node that is drained or down loses its task; one that is paused keeps it and gets no other.

use std::collections::BTreeMap;

use super::{Fate, fate, fill, remove, replace, shut_down};
use crate::core::constraint;
use crate::core::dirty::is_up_to_date;
use crate::core::plan::restart::{self, Leaving};
use crate::core::plan::update::{self, slot};
use crate::core::plan::{Round, Slots};
use crate::core::state::*;
use crate::model::*;

pub fn service<'a>(round: &mut Round<'a, '_>, service: &'a Service, slots: &Slots<'a>) {
    let nodes = fitting(round, service);
    for (place, slot) in slots {
        match place {
            Place::Node(id) if nodes.contains_key(id) => {}
            Place::Node(id) if round.state.nodes.contains_key(*id) => shut_down(round, slot),
            // The node is gone for good, and what was on it with it.
            _ => remove(round, slot),
        }
    }
    let mut standing = BTreeMap::new();
    for (id, node) in nodes {
        let place = Place::Node(id);
        let slot = slots.get(&place).map_or(&[][..], Vec::as_slice);
        let is_paused = node.spec.availability() == Availability::Pause;
        let fate = fate(round, service, slot);
        if let Fate::Kept(task) | Fate::Replaced(task, _) = fate {
            slot::clear(round, slot, task);
        }
        match fate {
            Fate::Kept(_) if is_paused => {}
            Fate::Kept(task) if missed_update(service, task, node) => {
                replace(round, service, slot, task, Leaving::Outdated)
            }
            Fate::Kept(task) => {
                standing.insert(place, task);
            }
            Fate::Finished(task) => {
                round.desire(task, TaskState::Shutdown);
                standing.extend((!is_paused).then_some((place, task)));
            }
            Fate::Replaced(task, _) if is_paused => round.desire(task, TaskState::Shutdown),
            Fate::Replaced(task, leaving) => replace(round, service, slot, task, leaving),
            Fate::Dead if is_paused => {}
            Fate::Dead => fill(round, service, slots, place),
        }
    }
    update::service(round, service, slots, &standing);
}

/// Nodes that are to have a task, or may keep it.
fn fitting<'a>(round: &Round<'a, '_>, service: &Service) -> BTreeMap<&'a str, &'a Node> {
    let meets = |node: &Node| meets_constraints(service, node);
    let nodes = round.state.nodes.iter();
    nodes
        .filter(|(_, node)| !restart::is_lost(Some(node)) && meets(node))
        .map(|(id, node)| (id.as_str(), &**node))
        .collect()
}

/// Constraints were checked when the service was made.
pub fn meets_constraints(service: &Service, node: &Node) -> bool {
    let texts = service.spec.task.placement.as_ref();
    let texts = texts.map_or(&[][..], |placement| &placement.constraints);
    constraint::parse_all(texts).is_some_and(|all| constraint::all_met(&all, node))
}

/// Whether the node was paused while the service was updated. It follows when it is active again, whatever the update's pace
/// was, and the update's status stays as it is.
fn missed_update(service: &Service, task: &Task, node: &Node) -> bool {
    let state = service.update_status.as_ref().map_or("", |s| s.state.as_str());
    matches!(state, "completed" | "rollback_completed") && !is_up_to_date(service, task, Some(node))
}
