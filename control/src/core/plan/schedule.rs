//! Finds a node for every pending task (swarmkit manager/scheduler): filters in Swarm's order, then spread, or, where a
//! service asks for it, the fullest node first.

pub mod ask;
pub mod room;
mod tree;

use std::collections::BTreeMap;

use super::{MAX_STEPS, Round};
use crate::core::failures::FailureMemory;
use crate::core::state::*;
use crate::model::*;
use ask::{Ask, Filter};
use room::Room;
use tree::{NodeRank, Tree};

pub fn schedule<'a>(round: &mut Round<'a, '_>, failures: &FailureMemory) {
    let mut pending: Vec<&'a Task> = round
        .state
        .tasks
        .values()
        .map(|t| &**t)
        .filter(|t| t.status.state == TaskState::Pending as i32 && is_wanted(t))
        .filter(|t| !round.touched.contains(t.id.as_str()))
        .collect();
    if pending.is_empty() {
        return;
    }
    pending.sort_by_key(|t| (t.meta.created_at, &t.service_id, t.slot, &t.id));
    let mut rooms = room::rooms(round.state);
    let failures = failures.by_version(round.now);
    for tasks in groups(pending) {
        if round.plan.steps.len() >= MAX_STEPS {
            return;
        }
        let ask = Ask::new(round.state, tasks[0], &failures);
        let (pinned, free): (Vec<&Task>, Vec<&Task>) =
            tasks.into_iter().partition(|t| ask.pin(round.state, t).is_some());
        for task in pinned {
            pinned_task(round, &ask, &mut rooms, task);
        }
        if !free.is_empty() {
            free_tasks(round, &ask, &mut rooms, &free);
        }
    }
}

/// Tasks of one service and version, which fit the same nodes; the group with the oldest task first.
fn groups(pending: Vec<&Task>) -> Vec<Vec<&Task>> {
    let mut groups: Vec<Vec<&Task>> = Vec::new();
    let mut numbers: BTreeMap<(&str, u64), usize> = BTreeMap::new();
    for task in pending {
        let number = *numbers
            .entry((&task.service_id, task.spec_version))
            .or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
        groups[number].push(task);
    }
    groups
}

/// Each in turn goes to the best node. What a task takes from a node changes that node's rank and no other's, so one
/// ordering serves them all.
fn free_tasks<'a>(round: &mut Round<'a, '_>, ask: &Ask, rooms: &mut [Room<'a>], tasks: &[&'a Task]) {
    let mut failed: BTreeMap<Filter, usize> = BTreeMap::new();
    let mut tree = Tree::default();
    for (number, room) in rooms.iter().enumerate() {
        let fits = ask.fits(room);
        if let Err(filter) = fits {
            *failed.entry(filter).or_default() += 1;
        }
        let rank = fits.is_ok().then(|| rank(ask, room, number));
        tree.add(&ask.branches(room.node), room.of_service(ask.service_id), rank);
    }
    tree.order();
    for task in tasks {
        if round.plan.steps.len() >= MAX_STEPS {
            return;
        }
        let placed = tree.place(&mut |number| {
            assign(round, ask, &mut rooms[number], task);
            match ask.has_room(&rooms[number]) {
                Ok(()) => Some(rank(ask, &rooms[number], number)),
                Err(filter) => {
                    *failed.entry(filter).or_default() += 1;
                    None
                }
            }
        });
        if !placed {
            explain(round, task, ask::explain(&failed));
        }
    }
}

/// A task that fits one node only.
fn pinned_task<'a>(round: &mut Round<'a, '_>, ask: &Ask, rooms: &mut [Room<'a>], task: &'a Task) {
    let pin = ask.pin(round.state, task).unwrap_or("");
    let Ok(number) = rooms.binary_search_by(|room| room.node.id.as_str().cmp(pin)) else {
        return;
    };
    match ask.fits(&rooms[number]) {
        Ok(()) => assign(round, ask, &mut rooms[number], task),
        Err(filter) => {
            let mut failed = BTreeMap::from([(filter, 1)]);
            let others = rooms.len() - 1;
            if others > 0 && !task.preassigned {
                failed.insert(Filter::Volume, others);
            }
            explain(round, task, ask::explain(&failed));
        }
    }
}

fn rank(ask: &Ask, room: &Room, number: usize) -> NodeRank {
    NodeRank {
        penalty: ask.penalty(room.node),
        empty: if ask.packed { room.empty() } else { 0 },
        of_service: room.of_service(ask.service_id),
        tasks: room.tasks,
        number,
    }
}

fn assign<'a>(round: &mut Round<'a, '_>, ask: &Ask, room: &mut Room<'a>, task: &'a Task) {
    let generic = room.generic.choose(ask.generic);
    room.add(task, &generic);
    round.step(TaskAction::Assign(AssignTask {
        id: task.id.clone(),
        node_id: room.node.id.clone(),
        generic,
    }));
}

fn explain(round: &mut Round, task: &Task, err: String) {
    if err != task.status.err {
        let id = task.id.clone();
        round.step(TaskAction::Explain(ExplainTask { id, err }));
    }
}
