//! A swarm without machines: the state, a clock, a leader that plans, and nodes that do as they are told.

use std::collections::BTreeSet;

use crate::core::assign::assign;
use crate::core::failures::FailureMemory;
use crate::core::plan::{Plan, plan};
use crate::core::state::*;
use crate::model::*;

pub const SECOND: Nanos = 1_000_000_000;
/// More rounds than this and the planners do not settle.
pub const MAX_ROUNDS: usize = 60;

#[derive(Clone)]
pub struct World {
    pub state: ClusterState,
    pub now: Timestamp,
    pub failures: FailureMemory,
    pub next_id: u32,
    /// Every command that was applied, for replay.
    pub log: Vec<(u64, Command)>,
}

impl World {
    /// A swarm of one manager `m1`, drained so that scripts see their own nodes only.
    pub fn new() -> World {
        let mut world = World {
            state: ClusterState::default(),
            now: 1_000 * SECOND,
            failures: FailureMemory::default(),
            next_id: 0,
            log: Vec::new(),
        };
        let mut node = node("m1");
        node.spec.role = Role::Manager as i32;
        node.manager_address = "m1:2377".to_string();
        node.spec.availability = Availability::Drain as i32;
        let init = InitCluster {
            cluster: Cluster {
                id: "swarm".into(),
                mesh_seed: 7,
                ..Default::default()
            },
            node,
            ingress_network_id: "ingress".into(),
            ingress_subnet: String::new(),
        };
        let applied = world.apply(Change::InitCluster(init));
        assert_eq!(applied.refused, None);
        world
    }

    pub fn apply(&mut self, change: Change) -> Applied {
        let command = Command {
            now: self.now,
            change: Some(change),
        };
        let index = self.state.index + 1;
        let applied = self.state.apply(index, &command);
        self.log.push((index, command));
        applied
    }

    /// The states from `start` to now, as pairs of one and the next.
    pub fn history(&self, start: &ClusterState) -> Vec<(ClusterState, ClusterState)> {
        let mut state = start.clone();
        let later = self.log.iter().filter(|(index, _)| *index > start.index);
        later
            .map(|(index, command)| {
                let before = state.clone();
                state.apply(*index, command);
                (before, state.clone())
            })
            .collect()
    }

    pub fn next_plan(&mut self) -> Plan {
        self.failures.observe(&self.state, self.now);
        let next = &mut self.next_id;
        let mut new_id = || {
            *next += 1;
            format!("t{next:03}")
        };
        plan(&self.state, self.now, &mut new_id, &self.failures)
    }

    /// Plans until nothing is left to do; answers when time will make more.
    pub fn plan(&mut self) -> Option<Timestamp> {
        for _ in 0..MAX_ROUNDS {
            let plan = self.next_plan();
            let wake_at = plan.wake_at;
            let changes = plan.changes();
            if changes.is_empty() {
                return wake_at;
            }
            for change in changes {
                self.apply(change);
            }
        }
        panic!("the planners do not come to rest");
    }

    /// Each node in reach does what its tasks are desired to be, once. Answers whether anything was reported.
    pub fn obey(&mut self) -> bool {
        let nodes: Vec<String> = self.state.nodes.keys().cloned().collect();
        let mut acted = false;
        for node_id in &nodes {
            if !self.state.may_run(node_id) {
                continue;
            }
            let released: BTreeSet<String> = self.state.tasks.keys().cloned().collect();
            let items = assign(&self.state, node_id, &released);
            let reports: Vec<TaskReport> = items.values().filter_map(|i| self.next_report(i)).collect();
            acted |= !reports.is_empty();
            if !reports.is_empty() {
                let node_id = node_id.clone();
                self.apply(Change::ReportTasks(ReportTasks { node_id, reports }));
            }
        }
        acted
    }

    fn next_report(&self, item: &Item) -> Option<TaskReport> {
        let Some(ItemKind::Task(task)) = &item.kind else {
            return None;
        };
        let goal = match TaskState::try_from(task.desired_state).ok()? {
            TaskState::Ready => TaskState::Ready,
            TaskState::Running | TaskState::Complete => TaskState::Running,
            _ => TaskState::Shutdown,
        };
        (task.observed_state < goal as i32).then(|| report(&task.id, goal, self.now))
    }

    /// Plans and obeys in turn until the swarm rests.
    pub fn settle(&mut self) -> Option<Timestamp> {
        for _ in 0..MAX_ROUNDS {
            let wake_at = self.plan();
            if !self.obey() {
                return wake_at;
            }
        }
        panic!("the swarm does not come to rest");
    }

    /// The newest task of `service.slot` (of `service.node` where there is no slot) that is on a node, or the task of that id.
    pub fn task(&self, name: &str) -> Option<&Task> {
        if let Some(task) = self.state.tasks.get(name) {
            return Some(task);
        }
        let tasks = self.state.tasks.values().map(|t| &**t);
        tasks
            .filter(|t| place_name(t) == name && is_assigned(t))
            .max_by_key(|t| (t.meta.created_at, &t.id))
    }

    pub fn report(&mut self, name: &str, state: TaskState) -> Applied {
        let task = self.task(name).expect("no such task").clone();
        let change = ReportTasks {
            node_id: task.node_id.clone(),
            reports: vec![report(&task.id, state, self.now)],
        };
        self.apply(Change::ReportTasks(change))
    }
}

/// `service.slot`, or `service.node`.
pub fn place_name(task: &Task) -> String {
    match place_of(task) {
        Place::Slot(slot) => format!("{}.{slot}", task.service.name),
        Place::Node(id) => format!("{}.{id}", task.service.name),
    }
}

fn report(task_id: &str, state: TaskState, now: Timestamp) -> TaskReport {
    let err = match state {
        TaskState::Failed => "task: non-zero exit (1)",
        TaskState::Rejected => "No such image: none",
        _ => "",
    };
    TaskReport {
        task_id: task_id.to_string(),
        status: TaskStatus {
            state: state as i32,
            timestamp: now,
            err: err.to_string(),
            ..Default::default()
        },
    }
}

/// A worker of two CPUs and 4 GiB that is ready.
pub fn node(id: &str) -> Node {
    Node {
        id: id.to_string(),
        state: NodeState::Ready as i32,
        description: Some(NodeDescription {
            hostname: id.to_string(),
            nano_cpus: 2 * SECOND,
            memory: 4 << 30,
            platform: Some(Platform {
                architecture: "x86_64".into(),
                os: "linux".into(),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A replicated service of one image.
pub fn service_spec(name: &str, replicas: u64) -> ServiceSpec {
    let mut spec = ServiceSpec::default();
    spec.annotations.name = name.to_string();
    spec.task.container.image = "busybox".to_string();
    spec.mode = Some(ServiceMode::Replicated(ReplicatedMode {
        replicas: Some(replicas),
    }));
    spec
}
