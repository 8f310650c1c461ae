//! Spreads the tasks of services anew that ask for it (`skep.rebalance`), after a node joined or came back: one task at a
//! time, and the old one stays until the new one runs. Swarm never moves a running task.

use std::collections::BTreeMap;

use super::schedule::ask::Ask;
use super::schedule::room::{self, Room};
use super::{Round, Services, Slots};
use crate::core::dirty::is_up_to_date;
use crate::core::failures::FailureMemory;
use crate::core::placement;
use crate::core::state::*;
use crate::model::*;

/// After a task failed in its new place, its service is left alone so long.
const REST_AFTER_FAILURE: Nanos = 600 * 1_000_000_000;

pub fn rebalance<'a>(round: &mut Round<'a, '_>, services: &Services<'a>, failures: &FailureMemory) {
    let mut asking = Vec::new();
    for (id, slots) in &services.0 {
        let service = round.state.services.get(*id);
        if let Some(service) = service.filter(|s| placement::is_rebalanced(&s.spec))
            && is_quiet(round, service, slots)
        {
            asking.push((&**service, slots));
        }
    }
    if asking.is_empty() {
        return;
    }
    let rooms = room::rooms(round.state);
    let failures = failures.by_version(round.now);
    for (service, slots) in asking {
        let tasks: Vec<&Task> = slots
            .values()
            .flatten()
            .copied()
            .filter(|t| is_wanted(t))
            .collect();
        let Some(first) = tasks.first() else { continue };
        let ask = Ask::new(round.state, first, &failures);
        let crowded = crowded_node(&ask, &rooms);
        let leaves = tasks.into_iter().rfind(|t| Some(t.node_id.as_str()) == crowded);
        if let Some(task) = leaves {
            round.create(CreateTask {
                service_id: service.id.clone(),
                slot: task.slot,
                desired_state: TaskState::Running as i32,
                beside: true,
                moves: true,
                ..Default::default()
            });
        }
    }
}

/// Whether every slot has one task, which runs and is what the service asks for, and no update is under way.
fn is_quiet<'a>(round: &mut Round<'a, '_>, service: &'a Service, slots: &Slots<'a>) -> bool {
    let update = service.update_status.as_ref().map_or("", |s| s.state.as_str());
    let is_settled = |task: &Task| {
        task.status.state == TaskState::Running as i32
            && !round.touched.contains(task.id.as_str())
            && is_up_to_date(service, task, round.node(task))
    };
    let wanted = slots.values().flatten().filter(|t| is_wanted(t));
    let settled = wanted.clone().filter(|t| is_settled(t)).count() as u64;
    let stopping = slots.values().flatten().any(|t| !is_wanted(t) && !has_ended(t));
    let replicas = replicas_of(&service.spec);
    if settled != replicas || wanted.count() as u64 != replicas || stopping {
        return false;
    }
    let failed = slots.values().flatten().filter(|t| t.moves).map(|t| t.failed_at);
    let until = failed.max().filter(|at| *at != 0).unwrap_or(0) + REST_AFTER_FAILURE;
    if until > round.now && until != REST_AFTER_FAILURE {
        round.wake_at(until);
        return false;
    }
    matches!(update, "" | "completed" | "rollback_completed")
}

/// One branch of the preferences, or a node at their end.
#[derive(Default)]
struct Branch<'a> {
    /// The least crowded of its own branches that could take one more task.
    least: Option<usize>,
    /// The most crowded of its own branches, by its last name.
    most: Option<(usize, &'a str)>,
}

/// The node that a task should leave: its branch has two more than another that has room.
fn crowded_node<'a>(ask: &Ask, rooms: &'a [Room]) -> Option<&'a str> {
    let mut branches: BTreeMap<Vec<&str>, (usize, bool)> = BTreeMap::new();
    for room in rooms {
        let tasks = room.of_service(ask.service_id);
        let has_room = ask.penalty(room.node) == 0 && ask.fits(room).is_ok();
        let mut path = ask.branches(room.node);
        path.push(&room.node.id);
        for depth in 1..=path.len() {
            let (sum, fits) = branches.entry(path[..depth].to_vec()).or_default();
            *sum += tasks;
            *fits |= has_room;
        }
    }
    let mut parents: BTreeMap<(usize, &[&str]), Branch> = BTreeMap::new();
    for (path, (tasks, fits)) in &branches {
        let Some((name, above)) = path.split_last() else {
            continue;
        };
        let parent = parents.entry((above.len(), above)).or_default();
        parent.most = parent.most.max(Some((*tasks, name)));
        if *fits {
            parent.least = Some(parent.least.map_or(*tasks, |least| least.min(*tasks)));
        }
    }
    let uneven = parents.iter().find(|(_, b)| {
        b.least
            .zip(b.most)
            .is_some_and(|(least, (most, _))| most >= least + 2)
    });
    let ((depth, path), _) = uneven?;
    let mut path = path.to_vec();
    let mut depth = *depth;
    // Down to the most crowded node below.
    loop {
        let (_, name) = parents.get(&(depth, &path[..]))?.most?;
        path.push(name);
        depth += 1;
        if !parents.contains_key(&(depth, &path[..])) {
            return rooms.iter().map(|r| r.node.id.as_str()).find(|id| *id == name);
        }
    }
}
