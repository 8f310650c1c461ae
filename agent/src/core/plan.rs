//! What to do next on this node's containers, from what is wanted and what is there.
//!
//! Level-triggered: every call looks at everything, so it does not matter which events were missed or how far an
//! earlier plan came. A task has at most one action in flight; reports cost nothing and come first.

use std::collections::{BTreeMap, BTreeSet};

use skep_control::model::{ContainerStatus, PublishMode, TaskItem, TaskState, TaskStatus, Timestamp};

use crate::core::desired::Desired;

/// Milliseconds of a clock that only rises.
pub type Millis = u64;

/// How long a stop signal waits for other nodes to take the task out of their tables.
pub const WITHDRAW_DEADLINE_MS: Millis = 2000;

/// How long a task that is to listen before it counts as running may take.
pub const LISTEN_DEADLINE_MS: Millis = 5000;

/// What the Engine's health check says of a container, at last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// There is no check.
    #[default]
    Unchecked,
    /// None has succeeded yet.
    Starting,
    Healthy,
    Unhealthy,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    Created,
    Running { pid: i64 },
    Exited { code: i64 },
}

/// A container that carries a task's label and this node's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub task_id: String,
    pub phase: Phase,
    pub health: Health,
}

/// What is there, and what this node remembers of its own doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// By container id. Complete: the Engine answered.
    pub containers: BTreeMap<String, Container>,
    /// What this node last said of its tasks.
    pub statuses: BTreeMap<String, TaskStatus>,
    /// When a task was first wanted above RUNNING, or gone.
    pub withdrawn: BTreeMap<String, Millis>,
    /// Withdrawn tasks without a connection, or whose time for that is over.
    pub drained: BTreeSet<String>,
    /// Tasks that listen, or whose time for that is over.
    pub listening: BTreeSet<String>,
    /// Tasks with an action in flight.
    pub busy: BTreeSet<String>,
    /// Not before: tasks whose last action got no answer from the Engine.
    pub retry_at: BTreeMap<String, Millis>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The task's status moved forward.
    Report {
        task_id: String,
        status: TaskStatus,
    },
    /// Fetch the image if it is missing, make the networks exist, create the container.
    Create {
        task_id: String,
    },
    Start {
        task_id: String,
        container_id: String,
    },
    /// Wait until the task listens: on the TCP ports it publishes, else on any.
    AwaitListening {
        task_id: String,
        pid: i64,
    },
    /// Wait until the task has no connection any more, for so long at most.
    Drain {
        task_id: String,
        pid: i64,
        left: Millis,
    },
    /// Stop signal, then kill after the grace period.
    Stop {
        task_id: String,
        container_id: String,
    },
    /// Remove a container that does not run, with what belongs to it.
    Remove {
        task_id: String,
        container_id: String,
    },
}

impl Action {
    pub fn task_id(&self) -> &str {
        match self {
            Action::Report { task_id, .. }
            | Action::Create { task_id }
            | Action::Start { task_id, .. }
            | Action::AwaitListening { task_id, .. }
            | Action::Drain { task_id, .. }
            | Action::Stop { task_id, .. }
            | Action::Remove { task_id, .. } => task_id,
        }
    }
}

/// The next actions, and when to look again if nothing happens before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub wake_at: Option<Millis>,
}

impl Plan {
    fn wake(&mut self, at: Millis) {
        self.wake_at = Some(self.wake_at.map_or(at, |now| now.min(at)));
    }
}

impl Observed {
    /// Notes since when tasks are withdrawn, and forgets what nobody asks about any more. Call before [`plan`].
    pub fn note(&mut self, desired: &Desired, now: Millis) {
        let tasks = desired.tasks();
        for (id, task) in &tasks {
            if task.is_leaving() {
                self.withdrawn.entry((*id).to_string()).or_insert(now);
            }
        }
        let present: BTreeSet<&str> = self.containers.values().map(|c| c.task_id.as_str()).collect();
        let known = |id: &String| tasks.contains_key(id.as_str()) || present.contains(id.as_str());
        self.statuses.retain(|id, _| tasks.contains_key(id.as_str()));
        self.withdrawn.retain(|id, _| known(id));
        self.drained.retain(known);
        self.listening.retain(known);
        self.retry_at.retain(|id, _| known(id));
    }

    /// The greater of what this node said and what the managers know.
    fn state_of(&self, task: &TaskItem) -> i32 {
        let said = self.statuses.get(&task.id).map_or(0, |s| s.state);
        said.max(task.observed_state)
    }
}

/// See the module's text. `wall` is the time that reports carry.
pub fn plan(desired: &Desired, observed: &Observed, now: Millis, wall: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let tasks = desired.tasks();
    let mut by_task: BTreeMap<&str, Vec<&Container>> = BTreeMap::new();
    for container in observed.containers.values() {
        by_task.entry(&container.task_id).or_default().push(container);
    }
    // Old containers go first: they may hold what new ones need.
    for (id, containers) in by_task.iter().filter(|(id, _)| !tasks.contains_key(*id)) {
        if desired.complete && free(observed, id, now, &mut plan) {
            plan.actions.extend(clear(id, containers));
        }
    }
    let (leaving, staying): (Vec<&TaskItem>, Vec<&TaskItem>) = tasks.values().partition(|t| t.is_leaving());
    for task in leaving.into_iter().chain(staying) {
        if free(observed, &task.id, now, &mut plan) {
            let containers = by_task
                .get(task.id.as_str())
                .map(Vec::as_slice)
                .unwrap_or_default();
            step(task, &desired.node_id, containers, observed, now, wall, &mut plan);
        }
    }
    plan
}

fn free(observed: &Observed, id: &str, now: Millis, plan: &mut Plan) -> bool {
    if observed.busy.contains(id) {
        return false;
    }
    match observed.retry_at.get(id) {
        Some(&at) if at > now => {
            plan.wake(at);
            false
        }
        _ => true,
    }
}

/// The next step towards no container of this task.
fn clear(task_id: &str, containers: &[&Container]) -> Option<Action> {
    let container = containers.first()?;
    let (task_id, container_id) = (task_id.to_string(), container.id.clone());
    Some(match container.phase {
        Phase::Running { .. } => Action::Stop {
            task_id,
            container_id,
        },
        _ => Action::Remove {
            task_id,
            container_id,
        },
    })
}

fn step(
    task: &TaskItem,
    node_id: &str,
    containers: &[&Container],
    observed: &Observed,
    now: Millis,
    wall: Timestamp,
    plan: &mut Plan,
) {
    let (container, extra) = match containers.split_first() {
        Some((first, rest)) => (Some(*first), rest),
        None => (None, containers),
    };
    if !extra.is_empty() {
        plan.actions.extend(clear(&task.id, extra));
        return;
    }
    let mut teller = Teller {
        task,
        node_id,
        state: observed.state_of(task),
        wall,
        plan,
    };
    if task.is_leaving() {
        leave(&mut teller, container, observed, now);
    } else {
        run(&mut teller, container, observed);
    }
}

/// Reports of one task, forward only.
struct Teller<'a> {
    task: &'a TaskItem,
    node_id: &'a str,
    state: i32,
    wall: Timestamp,
    plan: &'a mut Plan,
}

impl Teller<'_> {
    fn say(&mut self, state: TaskState, message: &str, err: String, container: Option<&Container>) {
        if state as i32 <= self.state {
            return;
        }
        self.state = state as i32;
        let mut status = status(state, message, err, container, self.wall);
        if state == TaskState::Running {
            let host = self
                .task
                .ports
                .iter()
                .filter(|p| p.publish_mode() == PublishMode::Host);
            status.ports = host.cloned().collect();
        }
        let task_id = self.task.id.clone();
        self.plan.actions.push(Action::Report { task_id, status });
    }

    fn reached(&self, state: TaskState) -> bool {
        self.state >= state as i32
    }
}

/// A status as this node tells it.
pub fn status(
    state: TaskState,
    message: &str,
    err: String,
    container: Option<&Container>,
    wall: Timestamp,
) -> TaskStatus {
    TaskStatus {
        state: state as i32,
        timestamp: wall,
        message: message.to_string(),
        err,
        container: container.map(container_status),
        ..TaskStatus::default()
    }
}

fn container_status(container: &Container) -> ContainerStatus {
    let (pid, exit_code) = match container.phase {
        Phase::Created => (0, None),
        Phase::Running { pid } => (pid, None),
        Phase::Exited { code } => (0, Some(code)),
    };
    ContainerStatus {
        container_id: container.id.clone(),
        pid,
        exit_code,
    }
}

/// Towards RUNNING, or READY if no more is wanted. A task that ended stays ended: its replacement is another task.
fn run(teller: &mut Teller, container: Option<&Container>, observed: &Observed) {
    let task_id = teller.task.id.clone();
    let wanted = teller.task.desired_state;
    if teller.state > TaskState::Running as i32 {
        if let Some(Container {
            id,
            phase: Phase::Running { .. },
            ..
        }) = container
        {
            let container_id = id.clone();
            teller.plan.actions.push(Action::Stop {
                task_id,
                container_id,
            });
        }
        return;
    }
    teller.say(TaskState::Accepted, "accepted", String::new(), None);
    let Some(container) = container else {
        if teller.reached(TaskState::Starting) {
            let err = format!("No such container: {}", teller.task.name(teller.node_id));
            teller.say(TaskState::Failed, "started", err, None);
        } else {
            teller.say(TaskState::Preparing, "preparing", String::new(), None);
            teller.plan.actions.push(Action::Create { task_id });
        }
        return;
    };
    match container.phase {
        Phase::Created => {
            teller.say(TaskState::Ready, "prepared", String::new(), Some(container));
            if wanted >= TaskState::Running as i32 {
                teller.say(TaskState::Starting, "starting", String::new(), Some(container));
                let container_id = container.id.clone();
                teller.plan.actions.push(Action::Start {
                    task_id,
                    container_id,
                });
            }
        }
        Phase::Running { pid } => serve(teller, container, pid, observed),
        Phase::Exited { code } if container.health == Health::Unhealthy => {
            let exit = match code {
                0 => String::new(),
                code => format!("task: non-zero exit ({code}): "),
            };
            let err = format!("{exit}dockerexec: unhealthy container");
            teller.say(TaskState::Failed, "started", err, Some(container));
        }
        Phase::Exited { code: 0 } => {
            teller.say(TaskState::Complete, "finished", String::new(), Some(container))
        }
        Phase::Exited { code } => {
            let err = format!("task: non-zero exit ({code})");
            teller.say(TaskState::Failed, "started", err, Some(container));
        }
    }
}

/// A container that runs makes a task RUNNING when its health check says so; without one, when it listens if that is asked
/// for, else at once. An unhealthy one is taken out of the tables and stopped.
fn serve(teller: &mut Teller, container: &Container, pid: i64, observed: &Observed) {
    let task_id = teller.task.id.clone();
    let running = teller.reached(TaskState::Running);
    match container.health {
        Health::Starting => {}
        Health::Unhealthy => {
            if running && observed.statuses.get(&task_id).is_none_or(|s| !s.unhealthy) {
                let message = "unhealthy".to_string();
                let mut status = status(
                    TaskState::Running,
                    "started",
                    message,
                    Some(container),
                    teller.wall,
                );
                status.unhealthy = true;
                let task_id = task_id.clone();
                teller.plan.actions.push(Action::Report { task_id, status });
            }
            let container_id = container.id.clone();
            teller.plan.actions.push(Action::Stop {
                task_id,
                container_id,
            });
        }
        Health::Unchecked
            if teller.task.runs_when_listening && !running && !observed.listening.contains(&task_id) =>
        {
            teller.plan.actions.push(Action::AwaitListening { task_id, pid });
        }
        Health::Unchecked | Health::Healthy => {
            teller.say(TaskState::Running, "started", String::new(), Some(container));
        }
    }
}

/// Towards SHUTDOWN; with REMOVE the container goes too. The stop signal waits until no node sends it new flows,
/// and then until those it has are over or the service's patience is.
fn leave(teller: &mut Teller, container: Option<&Container>, observed: &Observed, now: Millis) {
    let task_id = teller.task.id.clone();
    if let Some(container) = container {
        let container_id = container.id.clone();
        if let Phase::Running { pid } = container.phase {
            let since = observed.withdrawn.get(&task_id).copied().unwrap_or(now);
            let deadline = since + WITHDRAW_DEADLINE_MS;
            let patience = u64::try_from(teller.task.drain).unwrap_or(0) / 1_000_000;
            let left = (since + patience).saturating_sub(now);
            if !teller.task.released && now < deadline {
                teller.plan.wake(deadline);
            } else if left > 0 && !observed.drained.contains(&task_id) {
                teller.plan.actions.push(Action::Drain { task_id, pid, left });
            } else {
                teller.plan.actions.push(Action::Stop {
                    task_id,
                    container_id,
                });
            }
            return;
        }
        if teller.task.desired_state >= TaskState::Remove as i32 {
            teller.say(TaskState::Shutdown, "shutdown", String::new(), Some(container));
            teller.plan.actions.push(Action::Remove {
                task_id,
                container_id,
            });
            return;
        }
    }
    teller.say(TaskState::Shutdown, "shutdown", String::new(), container);
}

#[cfg(test)]
mod tests;
