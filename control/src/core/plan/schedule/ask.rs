//! What the tasks of one service and version ask of a node, and why a node cannot take one (swarmkit
//! manager/scheduler/filter.go, pipeline.go).

use std::collections::BTreeMap;

use super::room::{Room, generic, host_ports, reserved};
use crate::core::constraint::{self, Constraint};
use crate::core::failures::ByVersion;
use crate::core::placement;
use crate::core::state::*;
use crate::model::*;

/// Why a node cannot take a task, in the order the filters are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    Ready,
    Resources,
    Plugin,
    Constraint,
    Platform,
    HostPort,
    MaxReplicas,
    /// Another node has the data of the task's local volumes.
    Volume,
}

impl Filter {
    /// Swarm's words.
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
            Filter::Volume => on("no data of the task's local volumes"),
        }
    }
}

/// Most common reason first, as Swarm has it.
pub fn explain(failed: &BTreeMap<Filter, usize>) -> String {
    let mut reasons: Vec<(Filter, usize)> = failed.iter().map(|(f, n)| (*f, *n)).collect();
    reasons.sort_by_key(|(_, nodes)| std::cmp::Reverse(*nodes));
    if reasons.is_empty() {
        return "no suitable node".to_string();
    }
    let texts: Vec<String> = reasons.into_iter().map(|(f, n)| f.explain(n)).collect();
    format!("no suitable node ({})", texts.join("; "))
}

pub struct Ask<'a> {
    pub service_id: &'a str,
    pub generic: &'a [GenericResource],
    /// Fill nodes up instead of spreading.
    pub packed: bool,
    /// One of the tasks: they differ in nothing that is asked for here.
    task: &'a Task,
    /// `None` if they do not parse, which no node meets.
    constraints: Option<Vec<Constraint>>,
    stays_with_data: bool,
    penalties: Option<&'a BTreeMap<&'a str, usize>>,
}

impl<'a> Ask<'a> {
    pub fn new(state: &ClusterState, task: &'a Task, failures: &'a ByVersion<'a>) -> Ask<'a> {
        let service = state.services.get(&task.service_id);
        let texts = task.spec.placement.as_ref().map_or(&[][..], |p| &p.constraints);
        Ask {
            service_id: &task.service_id,
            generic: generic(&task.spec),
            packed: service.is_some_and(|s| placement::is_packed(&s.spec)),
            task,
            constraints: constraint::parse_all(texts),
            stays_with_data: service.is_some_and(|s| placement::stays_with_data(&s.spec)),
            penalties: failures.get(&(task.service_id.as_str(), task.spec_version)),
        }
    }

    /// The only node for this task, if there is one: that it was made for, or that with its data, as long as the swarm has it.
    pub fn pin<'t>(&self, state: &ClusterState, task: &'t Task) -> Option<&'t str> {
        if task.preassigned {
            return Some(&task.node_id);
        }
        let stays = self.stays_with_data && state.nodes.contains_key(&task.volume_node);
        stays.then_some(task.volume_node.as_str())
    }

    pub fn penalty(&self, node: &Node) -> usize {
        let penalty = self.penalties.and_then(|p| p.get(node.id.as_str()));
        penalty.copied().unwrap_or(0)
    }

    /// The values by which the preferences tell nodes apart, outermost first.
    pub fn branches<'n>(&self, node: &'n Node) -> Vec<&'n str> {
        let spread = self.task.spec.placement.as_ref().map_or(&[][..], |p| &p.spread);
        let value = |key: &String| constraint::label_value(key, node).unwrap_or("");
        spread.iter().map(value).collect()
    }

    pub fn fits(&self, room: &Room) -> Result<(), Filter> {
        let node = room.node;
        if node.state() != NodeState::Ready || node.spec.availability() != Availability::Active {
            return Err(Filter::Ready);
        }
        if !self.has_resources(room) {
            return Err(Filter::Resources);
        }
        if !has_plugins(node, &self.task.spec) {
            return Err(Filter::Plugin);
        }
        let constraints = self.constraints.as_ref();
        if !constraints.is_some_and(|all| constraint::all_met(all, node)) {
            return Err(Filter::Constraint);
        }
        let placement = self.task.spec.placement.as_ref();
        if !fits_platform(node, placement.map_or(&[], |p| &p.platforms)) {
            return Err(Filter::Platform);
        }
        self.has_room(room)
    }

    /// The filters whose answer changes with every task that a node takes.
    pub fn has_room(&self, room: &Room) -> Result<(), Filter> {
        if !self.has_resources(room) {
            return Err(Filter::Resources);
        }
        if host_ports(self.task).any(|port| room.host_ports.contains(&port)) {
            return Err(Filter::HostPort);
        }
        let max_replicas = self.task.spec.placement.as_ref().map_or(0, |p| p.max_replicas);
        if max_replicas != 0 && room.of_service(self.service_id) as u64 >= max_replicas {
            return Err(Filter::MaxReplicas);
        }
        Ok(())
    }

    /// What asks for nothing fits a node that promised too much.
    fn has_resources(&self, room: &Room) -> bool {
        let (nano_cpus, memory) = reserved(&self.task.spec);
        (nano_cpus == 0 || nano_cpus <= room.nano_cpus)
            && (memory == 0 || memory <= room.memory)
            && room.generic.has_enough(self.generic)
    }
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
