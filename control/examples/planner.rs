//! How fast the planners are, on state alone: `cargo run --release -p skep-control --example planner [-- --json]`.
//!
//! For each size: a swarm of so many nodes gets all its tasks (planned, applied and reported as a leader and its nodes would),
//! then one task fails, one node goes down, and one service is updated.

#![expect(clippy::disallowed_types, reason = "a measurement runs on real time")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skep_control::core::failures::FailureMemory;
use skep_control::core::plan::{Plan, plan};
use skep_control::core::state::ClusterState;
use skep_control::model::*;

/// Nodes and tasks.
const SIZES: [(usize, u64); 2] = [(1_000, 30_000), (5_000, 150_000)];
const TASKS_OF_A_SERVICE: u64 = 1_000;
const SECOND: i64 = 1_000_000_000;

struct Swarm {
    state: ClusterState,
    failures: FailureMemory,
    now: Timestamp,
    ids: u64,
    planning: Duration,
    applying: Duration,
}

fn main() {
    let is_json = std::env::args().any(|a| a == "--json");
    let only = std::env::args().skip(1).find_map(|a| a.parse::<usize>().ok());
    let sizes = SIZES
        .iter()
        .filter(|(nodes, _)| only.is_none_or(|only| only == *nodes));
    let rows: Vec<Value> = sizes.map(|(nodes, tasks)| measure(*nodes, *tasks)).collect();
    if is_json {
        println!("{}", json!(rows));
        return;
    }
    for row in rows {
        println!("{} nodes, {} tasks", row["nodes"], row["tasks"]);
        let figures = row.as_object().into_iter().flatten();
        for (name, value) in figures.filter(|(name, _)| !matches!(name.as_str(), "nodes" | "tasks")) {
            println!("    {name:<44} {value}");
        }
    }
}

fn measure(nodes: usize, tasks: u64) -> Value {
    let mut swarm = Swarm::new(nodes);
    for number in 0..tasks / TASKS_OF_A_SERVICE {
        swarm.service(&format!("s{number}"));
    }
    let begin = Instant::now();
    swarm.settle();
    let (planning, applying) = (swarm.planning, swarm.applying);
    assert_eq!(swarm.running(), tasks, "not all were placed");
    let placed = tasks as f64 / planning.as_secs_f64();
    let all = begin.elapsed();
    let quiet = swarm.round();
    swarm.fail_one();
    let failed = swarm.round();
    swarm.settle();
    swarm.down("n7");
    let down = swarm.round();
    swarm.settle();
    swarm.update("s0");
    let update = swarm.round();
    let ms = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
    json!({
        "nodes": nodes,
        "tasks": tasks,
        "placements a second, planners alone": placed.round(),
        "placed and applied in all, ms": ms(all),
        "of that planning, ms": ms(planning),
        "of that applying, ms": ms(applying),
        "a round with nothing to do, ms": ms(quiet),
        "a round after a task failed, ms": ms(failed),
        "a round after a node went down, ms": ms(down),
        "a round after a service was updated, ms": ms(update),
    })
}

impl Swarm {
    fn new(nodes: usize) -> Swarm {
        let mut swarm = Swarm {
            state: ClusterState::default(),
            failures: FailureMemory::default(),
            now: 1_000 * SECOND,
            ids: 0,
            planning: Duration::ZERO,
            applying: Duration::ZERO,
        };
        swarm.apply(Change::InitCluster(InitCluster {
            cluster: Cluster {
                id: "swarm".into(),
                ..Cluster::default()
            },
            node: node(0),
            ingress_network_id: "ingress".into(),
            ingress_subnet: String::new(),
        }));
        for number in 1..nodes {
            let node = node(number);
            swarm.apply(Change::CreateNode(CreateNode { node }));
        }
        swarm
    }

    fn apply(&mut self, change: Change) {
        let begin = Instant::now();
        let command = Command {
            now: self.now,
            change: Some(change),
        };
        let applied = self.state.apply(self.state.index + 1, &command);
        assert_eq!(applied.refused, None);
        self.applying += begin.elapsed();
    }

    fn service(&mut self, name: &str) {
        let mut spec = ServiceSpec::default();
        spec.annotations.name = name.to_string();
        spec.task.container.image = "busybox".to_string();
        let reservations = Resources {
            nano_cpus: SECOND / 100,
            memory: 16 << 20,
            generic: Vec::new(),
        };
        spec.task.resources = Some(ResourceRequirements {
            limits: None,
            reservations: Some(reservations),
        });
        spec.task.placement = Some(Placement {
            constraints: vec!["node.labels.disk==ssd".to_string()],
            spread: vec!["node.labels.zone".to_string()],
            ..Placement::default()
        });
        spec.mode = Some(ServiceMode::Replicated(ReplicatedMode {
            replicas: Some(TASKS_OF_A_SERVICE),
        }));
        let id = name.to_string();
        self.apply(Change::CreateService(CreateService { id, spec }));
    }

    fn plan(&mut self) -> Plan {
        let begin = Instant::now();
        self.failures.observe(&self.state, self.now);
        let ids = &mut self.ids;
        let mut new_id = || {
            *ids += 1;
            format!("t{ids:09}")
        };
        let plan = plan(&self.state, self.now, &mut new_id, &self.failures);
        self.planning += begin.elapsed();
        plan
    }

    /// Plans, applies and reports until nothing is left.
    fn settle(&mut self) {
        loop {
            let changes = self.plan().changes();
            let planned = !changes.is_empty();
            for change in changes {
                self.apply(change);
            }
            if !planned && !self.report() {
                return;
            }
        }
    }

    /// Every node does as it is told.
    fn report(&mut self) -> bool {
        let mut reports: std::collections::BTreeMap<String, Vec<TaskReport>> = Default::default();
        for task in self.state.tasks.values() {
            let wanted = task.desired_state;
            let goal = match wanted {
                _ if task.status.state < TaskState::Assigned as i32 => continue,
                _ if !self.state.may_run(&task.node_id) => continue,
                w if w <= TaskState::Running as i32 => w,
                _ => TaskState::Shutdown as i32,
            };
            if task.status.state < goal {
                let status = TaskStatus {
                    state: goal,
                    timestamp: self.now,
                    ..TaskStatus::default()
                };
                reports.entry(task.node_id.clone()).or_default().push(TaskReport {
                    task_id: task.id.clone(),
                    status,
                });
            }
        }
        let reported = !reports.is_empty();
        for (node_id, reports) in reports {
            self.apply(Change::ReportTasks(ReportTasks { node_id, reports }));
        }
        reported
    }

    /// The time of one round, whose steps are thrown away.
    fn round(&mut self) -> Duration {
        let begin = Instant::now();
        self.plan();
        begin.elapsed()
    }

    fn running(&self) -> u64 {
        let tasks = self.state.tasks.values();
        tasks
            .filter(|t| t.status.state == TaskState::Running as i32)
            .count() as u64
    }

    fn fail_one(&mut self) {
        let Some(task) = self.state.tasks.values().next().cloned() else {
            return;
        };
        let status = TaskStatus {
            state: TaskState::Failed as i32,
            timestamp: self.now,
            ..TaskStatus::default()
        };
        let reports = vec![TaskReport {
            task_id: task.id.clone(),
            status,
        }];
        let node_id = task.node_id.clone();
        self.apply(Change::ReportTasks(ReportTasks { node_id, reports }));
    }

    fn down(&mut self, id: &str) {
        self.apply(Change::ReportNode(ReportNode {
            id: id.to_string(),
            state: Some(NodeState::Down as i32),
            ..ReportNode::default()
        }));
    }

    fn update(&mut self, id: &str) {
        let Some(service) = self.state.services.get(id).cloned() else {
            return;
        };
        let mut spec = service.spec.clone();
        spec.task.container.env.push("V=2".to_string());
        self.apply(Change::UpdateService(UpdateService {
            id: id.to_string(),
            version: service.meta.version,
            spec,
            rollback: false,
        }));
    }
}

/// Sixteen CPUs, 64 GiB, one of ten zones.
fn node(number: usize) -> Node {
    let mut node = Node {
        id: format!("n{number}"),
        state: NodeState::Ready as i32,
        address: format!("10.{}.{}.1", number / 250, number % 250),
        description: Some(NodeDescription {
            hostname: format!("host{number}"),
            nano_cpus: 16 * SECOND,
            memory: 64 << 30,
            ..NodeDescription::default()
        }),
        ..Node::default()
    };
    if number == 0 {
        node.spec.role = Role::Manager as i32;
        node.manager_address = "10.0.0.1:2377".to_string();
    }
    let labels = &mut node.spec.annotations.labels;
    labels.insert("zone".to_string(), format!("z{}", number % 10));
    labels.insert("disk".to_string(), "ssd".to_string());
    node
}
