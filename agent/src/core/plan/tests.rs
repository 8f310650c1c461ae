//! The planner against a model Engine: it converges from anywhere, also when interrupted after any action.

use std::sync::Arc;

use proptest::prelude::*;
use skep_control::model::{Annotations, ContainerSpec, Item, ItemKind, Items, TaskSpec, item_key};

use super::*;

fn task(id: &str, desired: TaskState) -> TaskItem {
    TaskItem {
        id: id.to_string(),
        service: Annotations {
            name: "web".into(),
            ..Annotations::default()
        },
        spec: TaskSpec {
            container: ContainerSpec::default(),
            ..TaskSpec::default()
        },
        desired_state: desired as i32,
        observed_state: TaskState::Assigned as i32,
        ..TaskItem::default()
    }
}

fn desired(tasks: Vec<TaskItem>) -> Desired {
    let item = |task: TaskItem| {
        let kind = ItemKind::Task(task);
        (item_key(&kind), Item { kind: Some(kind) })
    };
    Desired {
        node_id: "n1".into(),
        items: Arc::new(tasks.into_iter().map(item).collect::<Items>()),
        index: 1,
        complete: true,
    }
}

/// An Engine that does what it is told; only invariants the planner relies on.
#[derive(Default)]
struct Engine {
    observed: Observed,
    now: Millis,
    made: u32,
    /// Task ids in the order their stop signal was sent, with the time.
    stopped: Vec<(String, Millis)>,
    /// How long the clients of a withdrawn task take to leave.
    connected: Millis,
}

impl Engine {
    fn act(&mut self, action: &Action) {
        let containers = &mut self.observed.containers;
        match action {
            Action::Report { task_id, status } => {
                let before = self.observed.statuses.get(task_id).map_or(0, |s| s.state);
                let forward = status.state > before || (status.state == before && status.unhealthy);
                assert!(forward, "status of {task_id} went back");
                self.observed.statuses.insert(task_id.clone(), status.clone());
            }
            Action::Create { task_id } => {
                assert!(
                    !containers.values().any(|c| &c.task_id == task_id),
                    "name conflict"
                );
                self.made += 1;
                let id = format!("c{}", self.made);
                let container = Container {
                    id: id.clone(),
                    task_id: task_id.clone(),
                    phase: Phase::Created,
                    health: Health::Unchecked,
                };
                containers.insert(id, container);
            }
            Action::Start {
                task_id,
                container_id,
            } => {
                let container = containers.get_mut(container_id).expect("start of nothing");
                assert_eq!(&container.task_id, task_id);
                assert_eq!(container.phase, Phase::Created);
                container.phase = Phase::Running { pid: 1 };
            }
            Action::AwaitListening { task_id, .. } => {
                self.observed.listening.insert(task_id.clone());
            }
            Action::Drain { task_id, left, .. } => {
                self.now += self.connected.min(*left);
                self.observed.drained.insert(task_id.clone());
            }
            Action::Stop {
                task_id,
                container_id,
            } => {
                let container = containers.get_mut(container_id).expect("stop of nothing");
                assert_eq!(&container.task_id, task_id);
                container.phase = Phase::Exited { code: 0 };
                self.stopped.push((task_id.clone(), self.now));
            }
            Action::Remove {
                task_id,
                container_id,
            } => {
                let container = containers.remove(container_id).expect("remove of nothing");
                assert_eq!(&container.task_id, task_id);
                assert!(
                    !matches!(container.phase, Phase::Running { .. }),
                    "removed while running"
                );
            }
        }
    }

    fn plan(&mut self, desired: &Desired) -> Plan {
        self.observed.note(desired, self.now);
        plan(desired, &self.observed, self.now, 1)
    }

    /// Runs until nothing is left to do; time passes where the plan waits.
    fn settle(&mut self, desired: &Desired) {
        for _ in 0..200 {
            let plan = self.plan(desired);
            if plan.actions.is_empty() {
                match plan.wake_at {
                    Some(at) => self.now = at,
                    None => return,
                }
            }
            for action in &plan.actions {
                self.act(action);
            }
        }
        panic!("no fixpoint");
    }

    /// At most `steps` actions, then the agent dies: what it remembers is gone.
    fn interrupted(&mut self, desired: &Desired, mut steps: usize) {
        while steps > 0 {
            let plan = self.plan(desired);
            if plan.actions.is_empty() {
                let Some(at) = plan.wake_at else { break };
                self.now = at;
            }
            for action in plan.actions.iter().take(steps) {
                self.act(action);
            }
            steps = steps.saturating_sub(plan.actions.len().max(1));
        }
        self.observed.statuses.clear();
        self.observed.withdrawn.clear();
    }

    fn phases(&self) -> Vec<(String, Phase)> {
        let mut phases: Vec<_> = self
            .observed
            .containers
            .values()
            .map(|c| (c.task_id.clone(), c.phase.clone()))
            .collect();
        phases.sort_by(|a, b| a.0.cmp(&b.0));
        phases
    }
}

fn states() -> impl Strategy<Value = TaskState> {
    prop::sample::select(vec![
        TaskState::Ready,
        TaskState::Running,
        TaskState::Shutdown,
        TaskState::Remove,
    ])
}

fn sets() -> impl Strategy<Value = Vec<TaskItem>> {
    prop::collection::btree_map(0u8..6, (states(), any::<bool>()), 0..6).prop_map(|tasks| {
        let make = |(n, (state, released)): (u8, (TaskState, bool))| TaskItem {
            released,
            ..task(&format!("t{n}"), state)
        };
        tasks.into_iter().map(make).collect()
    })
}

proptest! {
    #[test]
    fn it_converges_and_is_then_silent(first in sets(), second in sets(), steps in 0usize..12) {
        let (first, second) = (desired(first), desired(second));
        let mut engine = Engine::default();
        engine.settle(&first);
        engine.interrupted(&second, steps);
        engine.settle(&second);
        prop_assert_eq!(engine.plan(&second), Plan::default());
        for (id, task) in second.tasks() {
            let phase = engine.phases().into_iter().find(|(t, _)| t == id).map(|(_, p)| p);
            let fits = match TaskState::try_from(task.desired_state).unwrap() {
                // Never started, or ended already by an earlier set.
                TaskState::Ready => phase.is_some(),
                TaskState::Running => matches!(phase, Some(Phase::Running { .. } | Phase::Exited { .. })),
                TaskState::Remove => phase.is_none(),
                _ => !matches!(phase, Some(Phase::Running { .. })),
            };
            prop_assert!(fits, "{id} is {phase:?}");
        }
        let strays = engine.phases().iter().filter(|(id, _)| !second.tasks().contains_key(id.as_str())).count();
        prop_assert_eq!(strays, 0);
    }

    #[test]
    fn nothing_is_deleted_before_a_complete_set(first in sets()) {
        let set = desired(first);
        let mut engine = Engine::default();
        engine.settle(&set);
        let before = engine.phases();
        let silent = Desired { complete: false, items: Arc::default(), ..set };
        engine.settle(&silent);
        prop_assert_eq!(engine.phases(), before);
    }

    #[test]
    fn a_stop_waits_for_release_or_the_deadline(released in any::<bool>()) {
        let mut engine = Engine { now: 1000, ..Engine::default() };
        engine.settle(&desired(vec![task("t", TaskState::Running)]));
        engine.settle(&desired(vec![TaskItem { released, ..task("t", TaskState::Shutdown) }]));
        let at = if released { 1000 } else { 1000 + WITHDRAW_DEADLINE_MS };
        prop_assert_eq!(engine.stopped, vec![("t".to_string(), at)]);
    }
}

proptest! {
    /// The signal comes when the tables are without the task and its last client has left, or the service's patience is over.
    #[test]
    fn a_stop_waits_for_the_clients(connected in 0u64..9000, patience in 0u64..9000, released in any::<bool>()) {
        let mut engine = Engine { now: 1000, connected, ..Engine::default() };
        engine.settle(&desired(vec![task("t", TaskState::Running)]));
        let drain = patience as i64 * 1_000_000;
        let leaves = TaskItem { released, drain, ..task("t", TaskState::Shutdown) };
        engine.settle(&desired(vec![leaves]));
        let withdrawn = if released { 1000 } else { 1000 + WITHDRAW_DEADLINE_MS };
        let at = (withdrawn + connected).min((1000 + patience).max(withdrawn));
        prop_assert_eq!(engine.stopped, vec![("t".to_string(), at)]);
    }
}

fn set_health(engine: &mut Engine, health: Health) {
    for container in engine.observed.containers.values_mut() {
        container.health = health;
    }
}

#[test]
fn a_task_runs_when_it_is_healthy_and_fails_when_it_is_not() {
    let set = desired(vec![task("t", TaskState::Running)]);
    let mut engine = Engine::default();
    while engine.observed.containers.is_empty() {
        for action in engine.plan(&set).actions {
            engine.act(&action);
        }
    }
    set_health(&mut engine, Health::Starting);
    engine.settle(&set);
    assert_eq!(last(&engine).0, TaskState::Starting as i32);
    set_health(&mut engine, Health::Healthy);
    engine.settle(&set);
    assert_eq!(last(&engine).0, TaskState::Running as i32);
    assert!(engine.stopped.is_empty());
    set_health(&mut engine, Health::Unhealthy);
    let plan = engine.plan(&set);
    let first = plan.actions.first();
    let told = matches!(first, Some(Action::Report { status, .. }) if status.unhealthy);
    assert!(told, "out of the tables before the signal: {first:?}");
    engine.settle(&set);
    assert_eq!(engine.stopped.len(), 1);
    let (state, _, err) = last(&engine);
    assert_eq!(
        (state, err.as_str()),
        (TaskState::Failed as i32, "dockerexec: unhealthy container")
    );
}

#[test]
fn an_unhealthy_exit_is_told_with_its_code() {
    let set = desired(vec![task("t", TaskState::Running)]);
    let mut engine = Engine::default();
    engine.settle(&set);
    set_health(&mut engine, Health::Unhealthy);
    for container in engine.observed.containers.values_mut() {
        container.phase = Phase::Exited { code: 137 };
    }
    engine.settle(&set);
    assert_eq!(
        last(&engine).2,
        "task: non-zero exit (137): dockerexec: unhealthy container"
    );
}

#[test]
fn a_task_that_takes_another_s_place_runs_when_it_listens() {
    let beside = TaskItem {
        runs_when_listening: true,
        ..task("t", TaskState::Running)
    };
    let set = desired(vec![beside]);
    let mut engine = Engine::default();
    let mut waited = false;
    for _ in 0..9 {
        for action in engine.plan(&set).actions {
            if let Action::AwaitListening { .. } = action {
                waited = true;
                assert_eq!(last(&engine).0, TaskState::Starting as i32);
            }
            engine.act(&action);
        }
    }
    assert!(waited);
    assert_eq!(last(&engine).0, TaskState::Running as i32);
}

fn last(engine: &Engine) -> (i32, String, String) {
    let status = &engine.observed.statuses["t"];
    (status.state, status.message.clone(), status.err.clone())
}

fn exits(code: i64) -> Engine {
    let mut engine = Engine::default();
    let set = desired(vec![task("t", TaskState::Running)]);
    engine.settle(&set);
    for container in engine.observed.containers.values_mut() {
        container.phase = Phase::Exited { code };
    }
    engine.settle(&set);
    engine
}

#[test]
fn ends_are_told_in_swarm_s_words() {
    let failed = exits(137);
    let expected = (
        TaskState::Failed as i32,
        "started".into(),
        "task: non-zero exit (137)".into(),
    );
    assert_eq!(last(&failed), expected);
    let status = &failed.observed.statuses["t"];
    assert_eq!(status.container.as_ref().unwrap().exit_code, Some(137));
    assert_eq!(
        last(&exits(0)),
        (TaskState::Complete as i32, "finished".into(), String::new())
    );
}

#[test]
fn a_start_is_told_step_by_step() {
    let set = desired(vec![task("t", TaskState::Running)]);
    let mut engine = Engine::default();
    let mut told = Vec::new();
    for _ in 0..4 {
        let plan = engine.plan(&set);
        for action in &plan.actions {
            if let Action::Report { status, .. } = action {
                told.push(status.message.clone());
            }
            engine.act(action);
        }
    }
    assert_eq!(told, ["accepted", "preparing", "prepared", "starting", "started"]);
}

#[test]
fn a_container_removed_by_hand_is_a_failure() {
    let set = desired(vec![task("t", TaskState::Running)]);
    let mut engine = Engine::default();
    engine.settle(&set);
    engine.observed.containers.clear();
    engine.settle(&set);
    assert_eq!(last(&engine).0, TaskState::Failed as i32);
    assert_eq!(engine.made, 1, "not made anew: the managers decide");
}

#[test]
fn what_is_busy_or_waits_is_left_alone() {
    let set = desired(vec![task("t", TaskState::Running), task("u", TaskState::Running)]);
    let mut observed = Observed::default();
    observed.busy.insert("t".into());
    observed.retry_at.insert("u".into(), 50);
    let plan = plan(&set, &observed, 10, 1);
    assert_eq!((plan.actions.len(), plan.wake_at), (0, Some(50)));
}
