//! Finds a node for every pending task (swarmkit manager/scheduler): filters in Swarm's order, then spread.

use std::collections::{BTreeMap, BTreeSet};

use super::Round;
use crate::core::constraint::{self, Constraint};
use crate::core::failures::FailureMemory;
use crate::core::state::*;
use crate::model::*;

/// What a node has left, and what runs on it.
struct Room<'a> {
    node: &'a Node,
    nano_cpus: i64,
    memory: i64,
    host_ports: BTreeSet<(i32, u32)>,
    /// Wanted tasks in all, and by service.
    tasks: usize,
    by_service: BTreeMap<&'a str, usize>,
}

impl<'a> Room<'a> {
    fn new(node: &'a Node) -> Room<'a> {
        let description = node.description.as_ref();
        Room {
            node,
            nano_cpus: description.map_or(0, |d| d.nano_cpus),
            memory: description.map_or(0, |d| d.memory),
            host_ports: BTreeSet::new(),
            tasks: 0,
            by_service: BTreeMap::new(),
        }
    }

    /// A task that is about to stop still holds its share and its ports, but no longer counts for the spread.
    fn add(&mut self, task: &'a Task) {
        let (nano_cpus, memory) = reserved(&task.spec);
        self.nano_cpus -= nano_cpus;
        self.memory -= memory;
        self.host_ports.extend(host_ports(task));
        if is_wanted(task) {
            self.tasks += 1;
            *self.by_service.entry(&task.service_id).or_default() += 1;
        }
    }

    fn of_service(&self, task: &Task) -> usize {
        self.by_service
            .get(task.service_id.as_str())
            .copied()
            .unwrap_or(0)
    }
}

fn reserved(spec: &TaskSpec) -> (i64, i64) {
    let reservations = spec.resources.as_ref().and_then(|r| r.reservations.as_ref());
    reservations.map_or((0, 0), |r| (r.nano_cpus, r.memory))
}

fn host_ports(task: &Task) -> impl Iterator<Item = (i32, u32)> {
    task.ports
        .iter()
        .filter(|p| p.publish_mode() == PublishMode::Host && p.published_port != 0)
        .map(|p| (p.protocol, p.published_port))
}

/// Why a node cannot take a task, in the order the filters are asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Filter {
    Ready,
    Resources,
    Plugin,
    Constraint,
    Platform,
    HostPort,
    MaxReplicas,
}

impl Filter {
    /// Swarm's words (manager/scheduler/filter.go).
    fn explain(self, nodes: usize) -> String {
        let on = |text: &str| match nodes {
            1 => format!("{text} on 1 node"),
            n => format!("{text} on {n} nodes"),
        };
        match self {
            Filter::Ready if nodes == 1 => "1 node not available for new tasks".to_string(),
            Filter::Ready => format!("{nodes} nodes not available for new tasks"),
            Filter::Resources => on("insufficient resources"),
            Filter::Plugin => on("missing plugin"),
            Filter::Constraint => on("scheduling constraints not satisfied"),
            Filter::Platform => on("unsupported platform"),
            Filter::HostPort => on("host-mode port already in use"),
            Filter::MaxReplicas => "max replicas per node limit exceed".to_string(),
        }
    }
}

/// What tasks of one service and version have in common; `Err` for a node that can take none of them.
struct Group<'a> {
    fits: Vec<Result<(), Filter>>,
    penalties: BTreeMap<&'a str, usize>,
}

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
    let mut rooms = rooms(round.state);
    let mut groups: BTreeMap<(&str, u64), Group> = BTreeMap::new();
    for task in pending {
        let group = groups
            .entry((&task.service_id, task.spec_version))
            .or_insert_with(|| group(task, &rooms, failures, round.now));
        match choose(task, group, &rooms) {
            Ok(chosen) => {
                round.step(TaskAction::Assign(AssignTask {
                    id: task.id.clone(),
                    node_id: rooms[chosen].node.id.clone(),
                }));
                rooms[chosen].add(task);
            }
            Err(err) if err != task.status.err => {
                let id = task.id.clone();
                round.step(TaskAction::Explain(ExplainTask { id, err }));
            }
            Err(_) => {}
        }
    }
}

/// All nodes with what is on them, in the order of their ids.
fn rooms(state: &ClusterState) -> Vec<Room<'_>> {
    let mut rooms: BTreeMap<&str, Room> = state
        .nodes
        .values()
        .map(|n| (n.id.as_str(), Room::new(n)))
        .collect();
    for task in state.tasks.values().filter(|t| is_assigned(t) && !has_ended(t)) {
        if let Some(room) = rooms.get_mut(task.node_id.as_str()) {
            room.add(task);
        }
    }
    rooms.into_values().collect()
}

fn group<'f>(task: &Task, rooms: &[Room], failures: &'f FailureMemory, now: Timestamp) -> Group<'f> {
    let placement = task.spec.placement.clone().unwrap_or_default();
    let constraints = constraint::parse_all(&placement.constraints);
    let fits = rooms
        .iter()
        .map(|room| {
            fits_version(
                room.node,
                &task.spec,
                constraints.as_deref(),
                &placement.platforms,
            )
        })
        .collect();
    Group {
        fits,
        penalties: failures.penalties(&task.service_id, task.spec_version, now),
    }
}

fn fits_version(
    node: &Node,
    spec: &TaskSpec,
    constraints: Option<&[Constraint]>,
    platforms: &[Platform],
) -> Result<(), Filter> {
    if node.state() != NodeState::Ready || node.spec.availability() != Availability::Active {
        return Err(Filter::Ready);
    }
    let (nano_cpus, memory) = reserved(spec);
    let description = node.description.as_ref();
    if description.map_or(0, |d| d.nano_cpus) < nano_cpus || description.map_or(0, |d| d.memory) < memory {
        return Err(Filter::Resources);
    }
    if !has_plugins(node, spec) {
        return Err(Filter::Plugin);
    }
    if !constraints.is_some_and(|all| constraint::all_met(all, node)) {
        return Err(Filter::Constraint);
    }
    if !fits_platform(node, platforms) {
        return Err(Filter::Platform);
    }
    Ok(())
}

/// Volume and log drivers that are not built in must be there. A node that tells of no plugins of a kind is not asked.
fn has_plugins(node: &Node, spec: &TaskSpec) -> bool {
    let plugins = node.description.as_ref().map_or(&[][..], |d| &d.plugins);
    let has = |kind: &str, name: &str| {
        let mut of_kind = plugins.iter().filter_map(|p| p.strip_prefix(kind)).peekable();
        of_kind.peek().is_none() || of_kind.any(|p| p == name || p.strip_suffix(":latest") == Some(name))
    };
    let mut volumes = spec
        .container
        .mounts
        .iter()
        .filter_map(|m| m.volume_driver.as_deref());
    let log = spec.log_driver.as_ref().map_or("", |d| &d.name);
    volumes.all(|driver| driver.is_empty() || driver == "local" || has("Volume/", driver))
        && (log.is_empty() || log == "none" || has("Log/", log))
}

/// Any of the platforms is enough; blank fields match everything, so do blank lists.
fn fits_platform(node: &Node, platforms: &[Platform]) -> bool {
    let own = node.description.as_ref().and_then(|d| d.platform.as_ref());
    platforms.is_empty()
        || own.is_some_and(|own| {
            platforms.iter().any(|p| {
                let arch = constraint::common_arch(&p.architecture);
                (arch.is_empty() || arch == constraint::common_arch(&own.architecture))
                    && (p.os.is_empty() || p.os == own.os)
            })
        })
}

fn fits_now(task: &Task, room: &Room, max_replicas: u64) -> Result<(), Filter> {
    if max_replicas != 0 && room.of_service(task) as u64 >= max_replicas {
        return Err(Filter::MaxReplicas);
    }
    if host_ports(task).any(|port| room.host_ports.contains(&port)) {
        return Err(Filter::HostPort);
    }
    let (nano_cpus, memory) = reserved(&task.spec);
    if (nano_cpus != 0 && room.nano_cpus < nano_cpus) || (memory != 0 && room.memory < memory) {
        return Err(Filter::Resources);
    }
    Ok(())
}

/// The number of the node to take, or why there is none.
fn choose(task: &Task, group: &Group, rooms: &[Room]) -> Result<usize, String> {
    let max_replicas = task.spec.placement.as_ref().map_or(0, |p| p.max_replicas);
    let mut failed: BTreeMap<Filter, usize> = BTreeMap::new();
    let mut fitting = Vec::new();
    let is_asked = |room: &Room| !task.preassigned || room.node.id == task.node_id;
    for (number, room) in rooms.iter().enumerate().filter(|(_, room)| is_asked(room)) {
        match group.fits[number].and_then(|()| fits_now(task, room, max_replicas)) {
            Ok(()) => fitting.push(number),
            Err(filter) => *failed.entry(filter).or_default() += 1,
        }
    }
    let branches = branches(task, rooms);
    let best = fitting.into_iter().min_by_key(|number| {
        let room = &rooms[*number];
        let node_id = room.node.id.as_str();
        let penalty = group.penalties.get(node_id).copied().unwrap_or(0);
        let crowd = path(task, room.node).map(|branch| branches.get(&branch).copied().unwrap_or(0));
        let crowd: Vec<usize> = crowd.collect();
        (crowd, penalty, room.of_service(task), room.tasks, node_id)
    });
    best.ok_or_else(|| explain(&failed))
}

/// Most common reason first, as Swarm has it.
fn explain(failed: &BTreeMap<Filter, usize>) -> String {
    let mut reasons: Vec<(Filter, usize)> = failed.iter().map(|(f, n)| (*f, *n)).collect();
    reasons.sort_by_key(|(_, nodes)| std::cmp::Reverse(*nodes));
    if reasons.is_empty() {
        return "no suitable node".to_string();
    }
    let texts: Vec<String> = reasons.into_iter().map(|(f, n)| f.explain(n)).collect();
    format!("no suitable node ({})", texts.join("; "))
}

/// The branches of the preference tree that lead to the node, outermost first: the label values so far.
fn path<'n>(task: &'n Task, node: &'n Node) -> impl Iterator<Item = Vec<&'n str>> {
    let spread = task.spec.placement.as_ref().map_or(&[][..], |p| &p.spread);
    let mut so_far = Vec::new();
    spread.iter().map(move |key| {
        so_far.push(constraint::label_value(key, node).unwrap_or(""));
        so_far.clone()
    })
}

/// How many tasks of the service each branch has.
fn branches<'n>(task: &'n Task, rooms: &'n [Room]) -> BTreeMap<Vec<&'n str>, usize> {
    let mut branches = BTreeMap::new();
    for room in rooms {
        let tasks = room.of_service(task);
        for branch in path(task, room.node) {
            *branches.entry(branch).or_default() += tasks;
        }
    }
    branches
}
