//! What a node has left, and what runs on it (swarmkit manager/scheduler/nodeinfo.go).

use std::collections::{BTreeMap, BTreeSet};

use crate::core::generic::Stock;
use crate::core::state::*;
use crate::model::*;

pub struct Room<'a> {
    pub node: &'a Node,
    pub nano_cpus: i64,
    pub memory: i64,
    pub generic: Stock,
    pub host_ports: BTreeSet<(i32, u32)>,
    /// Wanted tasks in all, and by service.
    pub tasks: usize,
    by_service: BTreeMap<&'a str, usize>,
}

/// All nodes with what is on them, in the order of their ids.
pub fn rooms(state: &ClusterState) -> Vec<Room<'_>> {
    let mut rooms: Vec<Room> = state.nodes.values().map(|n| Room::new(n)).collect();
    let numbers: BTreeMap<&str, usize> = state.nodes.keys().map(String::as_str).zip(0..).collect();
    for task in state.tasks.values().filter(|t| is_assigned(t) && !has_ended(t)) {
        if let Some(number) = numbers.get(task.node_id.as_str()) {
            rooms[*number].add(task, &task.generic);
        }
    }
    rooms
}

impl<'a> Room<'a> {
    fn new(node: &'a Node) -> Room<'a> {
        let description = node.description.as_ref();
        Room {
            node,
            nano_cpus: description.map_or(0, |d| d.nano_cpus),
            memory: description.map_or(0, |d| d.memory),
            generic: Stock::new(description.map_or(&[], |d| &d.generic)),
            host_ports: BTreeSet::new(),
            tasks: 0,
            by_service: BTreeMap::new(),
        }
    }

    /// A task that is about to stop still holds its share and its ports, but no longer counts for the spread.
    pub fn add(&mut self, task: &'a Task, generic: &[GenericResource]) {
        let (nano_cpus, memory) = reserved(&task.spec);
        self.nano_cpus -= nano_cpus;
        self.memory -= memory;
        self.generic.take(generic);
        self.host_ports.extend(host_ports(task));
        if is_wanted(task) {
            self.tasks += 1;
            *self.by_service.entry(&task.service_id).or_default() += 1;
        }
    }

    pub fn of_service(&self, service_id: &str) -> usize {
        self.by_service.get(service_id).copied().unwrap_or(0)
    }

    /// How much of the node nobody reserved, in millionths of its CPUs and of its memory together.
    pub fn empty(&self) -> u64 {
        let description = self.node.description.as_ref();
        let share = |left: i64, all: i64| {
            let share = i128::from(left.max(0)) * 1_000_000 / i128::from(all.max(1));
            u64::try_from(share).unwrap_or(0)
        };
        let cpus = share(self.nano_cpus, description.map_or(0, |d| d.nano_cpus));
        cpus + share(self.memory, description.map_or(0, |d| d.memory))
    }
}

/// Nanoseconds of CPU a second, and bytes.
pub fn reserved(spec: &TaskSpec) -> (i64, i64) {
    let reservations = spec.resources.as_ref().and_then(|r| r.reservations.as_ref());
    reservations.map_or((0, 0), |r| (r.nano_cpus, r.memory))
}

pub fn generic(spec: &TaskSpec) -> &[GenericResource] {
    let reservations = spec.resources.as_ref().and_then(|r| r.reservations.as_ref());
    reservations.map_or(&[], |r| &r.generic)
}

pub fn host_ports(task: &Task) -> impl Iterator<Item = (i32, u32)> {
    task.ports
        .iter()
        .filter(|p| p.publish_mode() == PublishMode::Host && p.published_port != 0)
        .map(|p| (p.protocol, p.published_port))
}
