//! Tasks: what the planners decided, and what nodes report. Desired state has one writer, observed state another.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Answer, At, service};
use crate::core::address::AddressBook;
use crate::core::placement;
use crate::core::state::*;
use crate::model::*;

/// Swarm's messages of the states that managers write.
const CREATED: &str = "created";
const PENDING: &str = "pending task scheduling";
const ASSIGNED: &str = "scheduler assigned task to node";
const CONFIRMED: &str = "scheduler confirmed task can run on preassigned node";
/// swarmkit's allocator, shown as the task's error.
const NO_ADDRESS: &str = "could not find an available IP";

/// What a plan needs to know of the state as a whole, read once for all its steps.
struct Round {
    book: AddressBook,
    /// Wanted tasks by place: service, slot, and the node of one that has no slot.
    live: BTreeMap<(String, u64, String), usize>,
    /// The node with the data of each slot that has local volumes.
    data: BTreeMap<(String, u64), String>,
}

/// Nodes with the data of slots' local volumes: where the newest task of the slot ran.
fn data(state: &ClusterState) -> BTreeMap<(String, u64), String> {
    let mut newest: BTreeMap<(&str, u64), &Task> = BTreeMap::new();
    for task in state
        .tasks
        .values()
        .filter(|t| placement::has_local_data(&t.spec))
    {
        if task.preassigned || node_with_data(task).is_empty() {
            continue;
        }
        let known = newest.entry((&task.service_id, task.slot)).or_insert(task);
        if (task.meta.created_at, &task.id) > (known.meta.created_at, &known.id) {
            *known = task;
        }
    }
    newest
        .into_iter()
        .map(|((service, slot), task)| ((service.to_string(), slot), node_with_data(task).clone()))
        .collect()
}

fn node_with_data(task: &Task) -> &String {
    if task.ran_at != 0 {
        &task.node_id
    } else {
        &task.volume_node
    }
}

/// Applies each step whose premise still holds.
pub fn plan(state: &mut ClusterState, at: At, c: &PlanTasks) -> Answer {
    let mut round: Option<Round> = None;
    for action in c.steps.iter().filter_map(|s| s.action.as_ref()) {
        match action {
            TaskAction::Create(step) => {
                let round = round.get_or_insert_with(|| Round::read(state, at));
                create(state, at, step, round);
            }
            TaskAction::Allocate(id) => {
                let round = round.get_or_insert_with(|| Round::read(state, at));
                allocate(state, at, id, &mut round.book);
            }
            TaskAction::Assign(step) => assign(state, at, step),
            TaskAction::Desire(step) => {
                let Ok(desired) = TaskState::try_from(step.desired_state) else {
                    continue;
                };
                let was_wanted = state.tasks.get(&step.id).is_some_and(|t| takes_place(t));
                desire(state, at, &step.id, desired);
                if let (Some(round), Some(task)) = (&mut round, state.tasks.get(&step.id))
                    && was_wanted
                    && !is_wanted(task)
                {
                    round.leave(task);
                }
            }
            TaskAction::Explain(step) => explain(state, at, step),
            TaskAction::Delete(id) => delete(state, at, id),
            TaskAction::UpdateStatus(step) => set_update_status(state, at, step),
            TaskAction::Orphan(id) => give_up(state, at, id),
            TaskAction::Evict(id) => evict(state, at, id),
        }
    }
    Ok(Applied::default())
}

impl Round {
    fn read(state: &ClusterState, at: At) -> Round {
        let mut live = BTreeMap::new();
        for task in state.tasks.values().filter(|t| takes_place(t)) {
            *live.entry(key(task)).or_default() += 1;
        }
        let book = AddressBook::new(state, at.now);
        let data = data(state);
        Round { book, live, data }
    }

    /// Takes a place. It has one, and one more for a task that starts beside the one that runs.
    fn enter(&mut self, step: &CreateTask) -> bool {
        let wanted = self
            .live
            .entry((step.service_id.clone(), step.slot, step.node_id.clone()))
            .or_default();
        let enters = *wanted < 1 + usize::from(step.beside);
        *wanted += usize::from(enters);
        enters
    }

    fn leave(&mut self, task: &Task) {
        if let Some(wanted) = self.live.get_mut(&key(task)) {
            *wanted = wanted.saturating_sub(1);
        }
    }
}

fn key(task: &Task) -> (String, u64, String) {
    let node_id = match place_of(task) {
        Place::Slot(_) => "",
        Place::Node(id) => id,
    };
    (task.service_id.clone(), task.slot, node_id.to_string())
}

/// A slot never has two wanted tasks, but while one starts beside the other: one more is not made, whoever plans it.
fn create(state: &mut ClusterState, at: At, step: &CreateTask, round: &mut Round) {
    let Some(service) = state.services.get(&step.service_id).cloned() else {
        return;
    };
    let taken = state.tasks.contains_key(&step.id) || state.attachments.contains_key(&step.id);
    let preassigned = !step.node_id.is_empty();
    if preassigned && !state.nodes.contains_key(&step.node_id) {
        return;
    }
    if taken || step.id.is_empty() || !round.enter(step) {
        return;
    }
    let desired = if step.desired_state == TaskState::Ready as i32 {
        TaskState::Ready
    } else if service.job.is_some() {
        TaskState::Complete
    } else {
        TaskState::Running
    };
    let ingress = state.ingress().filter(|_| uses_ingress(&service.ports));
    let ingress = ingress.map(|n| NetworkAttachment {
        network_id: n.id.clone(),
        ..Default::default()
    });
    let asked = networks_of(&service.spec).iter().map(|n| NetworkAttachment {
        network_id: n.target.clone(),
        addresses: Vec::new(),
        aliases: n.aliases.clone(),
    });
    let task = Task {
        id: step.id.clone(),
        meta: at.created(),
        service_id: service.id.clone(),
        service: service.spec.annotations.clone(),
        slot: step.slot,
        node_id: step.node_id.clone(),
        preassigned,
        job_iteration: service.job.map(|job| job.iteration),
        spec: service.spec.task.clone(),
        spec_version: service.spec_version,
        desired_state: desired as i32,
        status: status(at, TaskState::New, CREATED),
        networks: ingress.into_iter().chain(asked).collect(),
        ports: service.ports.clone(),
        endpoint: service.spec.endpoint.clone(),
        start_not_before: step.start_not_before,
        volume_node: round
            .data
            .get(&(step.service_id.clone(), step.slot))
            .cloned()
            .unwrap_or_default(),
        moves: step.moves,
        update: match service.update_progress {
            Some(progress) if step.by_update => progress.number,
            _ => 0,
        },
        ..Default::default()
    };
    state.tasks.insert(step.id.clone(), Arc::new(task));
    allocate(state, at, &step.id, &mut round.book);
}

fn status(at: At, state: TaskState, message: &str) -> TaskStatus {
    TaskStatus {
        state: state as i32,
        timestamp: at.now,
        message: message.to_string(),
        ..Default::default()
    }
}

/// Gives the task an address on each of its networks, or none and the reason. A network without room keeps none of the
/// others' addresses.
fn allocate(state: &mut ClusterState, at: At, id: &str, book: &mut AddressBook) {
    let Some(task) = state.tasks.get(id) else { return };
    if task.status.state != TaskState::New as i32 || !is_wanted(task) {
        return;
    }
    let networks: Vec<Option<Arc<Network>>> = task
        .networks
        .iter()
        .map(|n| state.networks.get(&n.network_id).cloned())
        .collect();
    let mut task = Task::clone(task);
    let room = networks.iter().all(Option::is_some) && book.has_room(networks.iter().flatten().map(|n| &**n));
    if room {
        for (attachment, network) in task.networks.iter_mut().zip(networks.iter().flatten()) {
            attachment.addresses = book.take(network).into_iter().collect();
        }
        task.status = status(at, TaskState::Pending, PENDING);
    } else if task.status.err == NO_ADDRESS {
        return;
    } else {
        task.status.err = NO_ADDRESS.to_string();
    }
    at.touch(&mut task.meta);
    state.tasks.insert(id.to_string(), Arc::new(task));
}

fn assign(state: &mut ClusterState, at: At, step: &AssignTask) {
    let fit = state
        .nodes
        .get(&step.node_id)
        .is_some_and(|n| n.state() == NodeState::Ready && n.spec.availability() == Availability::Active);
    let Some(task) = state.tasks.get_mut(&step.id) else {
        return;
    };
    let asked = task.node_id.is_empty() || task.preassigned && task.node_id == step.node_id;
    let open = task.status.state == TaskState::Pending as i32 && asked && is_wanted(task);
    if !fit || !open {
        return;
    }
    let task = Arc::make_mut(task);
    task.node_id.clone_from(&step.node_id);
    task.generic.clone_from(&step.generic);
    let message = if task.preassigned { CONFIRMED } else { ASSIGNED };
    task.status = status(at, TaskState::Assigned, message);
    at.touch(&mut task.meta);
}

/// Desired state only rises. A running task that is no longer wanted leaves the tables at this index.
pub(super) fn desire(state: &mut ClusterState, at: At, id: &str, desired: TaskState) {
    let Some(task) = state.tasks.get(id) else { return };
    if task.desired_state >= desired as i32 {
        return;
    }
    let mut task = Task::clone(task);
    let held = holds_addresses(&task);
    let leaves = is_wanted(&task) && desired > TaskState::Complete;
    if leaves && task.status.state == TaskState::Running as i32 {
        task.withdrawn_at = at.index;
    }
    task.desired_state = desired as i32;
    at.touch(&mut task.meta);
    if held && !holds_addresses(&task) {
        rest_addresses(state, &task, at.now + REST);
    }
    state.tasks.insert(id.to_string(), Arc::new(task));
}

fn explain(state: &mut ClusterState, at: At, step: &ExplainTask) {
    let Some(task) = state.tasks.get_mut(&step.id) else {
        return;
    };
    if task.status.state != TaskState::Pending as i32 || task.status.err == step.err {
        return;
    }
    let task = Arc::make_mut(task);
    task.status.err.clone_from(&step.err);
    task.status.timestamp = at.now;
    at.touch(&mut task.meta);
}

/// Only what is unwanted and ended goes, or never was on a node, or is on a node that is down: what that node still
/// runs it stops when it hears of managers again. Addresses of such a task rest long.
fn delete(state: &mut ClusterState, at: At, id: &str) {
    let Some(task) = state.tasks.get(id).cloned() else {
        return;
    };
    let lost = is_assigned(&task) && !state.may_run(&task.node_id);
    if is_wanted(&task) || !(has_ended(&task) || !is_assigned(&task) || lost) {
        return;
    }
    state.tasks.remove(id);
    if holds_addresses(&task) {
        rest_addresses(state, &task, at.now + LOST_REST);
    }
}

/// Says how the service's update goes, unless a user changed the service since it was planned.
fn set_update_status(state: &mut ClusterState, at: At, step: &SetUpdateStatus) {
    let Some(known) = state.services.get(&step.service_id).cloned() else {
        return;
    };
    let changed = known.update_status != step.status || step.begins.is_some() || step.rollback;
    if !changed || (step.version != 0 && step.version != known.meta.version) {
        return;
    }
    let mut service = Service::clone(&known);
    service.update_status.clone_from(&step.status);
    if let Some(slots) = step.begins {
        let number = at.index;
        service.update_progress = Some(UpdateProgress { number, slots });
    }
    at.touch(&mut service.meta);
    if step.rollback {
        service = service::turned_back(state, at, &known, service);
    }
    state.services.insert(step.service_id.clone(), Arc::new(service));
}

/// The planner's last word on a task whose node has been down too long.
fn give_up(state: &mut ClusterState, at: At, id: &str) {
    let lost = state
        .tasks
        .get(id)
        .is_some_and(|t| !t.node_id.is_empty() && !state.may_run(&t.node_id));
    if lost {
        let text = "Task belonged to a node that has been unreachable for too long";
        orphan(state, at, id, text, at.now + REST);
    }
}

/// Swarm's constraint enforcer (swarmkit manager/orchestrator/constraintenforcer). The task leaves the tables; its node
/// stops it when the orchestrator no longer wants it.
fn evict(state: &mut ClusterState, at: At, id: &str) {
    let Some(task) = state.tasks.get_mut(id) else {
        return;
    };
    let runs = is_wanted(task) && !task.node_id.is_empty() && !has_ended(task) && !is_evicted(task);
    if !runs {
        return;
    }
    let task = Arc::make_mut(task);
    if task.status.state == TaskState::Running as i32 {
        task.withdrawn_at = at.index;
    }
    task.evicted_from = task.status.state;
    task.status.state = TaskState::Rejected as i32;
    task.status.timestamp = at.now;
    task.status.message = "task rejected by constraint enforcer".to_string();
    task.status.err = "assigned node no longer meets constraints".to_string();
    at.touch(&mut task.meta);
}

/// The node of an evicted task says that it has ended.
fn stopped(state: &mut ClusterState, at: At, id: &str) {
    let Some(task) = state.tasks.get(id) else { return };
    let mut task = Task::clone(task);
    let held = holds_addresses(&task);
    task.evicted_from = 0;
    at.touch(&mut task.meta);
    if held {
        rest_addresses(state, &task, at.now + REST);
    }
    state.tasks.insert(id.to_string(), Arc::new(task));
}

/// Writes an observed state that no node will report any more.
pub(super) fn orphan(state: &mut ClusterState, at: At, id: &str, text: &str, until: Timestamp) {
    let Some(task) = state.tasks.get(id) else { return };
    if task.status.state >= TaskState::Orphaned as i32 {
        return;
    }
    let held = holds_addresses(task);
    let mut task = Task::clone(task);
    task.status.state = TaskState::Orphaned as i32;
    task.evicted_from = 0;
    task.status.timestamp = at.now;
    task.status.message = text.to_string();
    at.touch(&mut task.meta);
    if held {
        rest_addresses(state, &task, until);
    }
    state.tasks.insert(id.to_string(), Arc::new(task));
}

fn rest_addresses(state: &mut ClusterState, task: &Task, until: Timestamp) {
    for attachment in &task.networks {
        if !state.networks.contains_key(&attachment.network_id) {
            continue;
        }
        for address in &attachment.addresses {
            state.rest(&attachment.network_id, address, until);
        }
    }
}

/// Observed state moves forward only, so reports that are lost, doubled or reordered do no harm. Of two reports of one
/// state the later wins.
pub fn report(state: &mut ClusterState, at: At, c: &ReportTasks) -> Answer {
    for report in &c.reports {
        let Some(task) = state.tasks.get(&report.task_id) else {
            continue;
        };
        let told = &report.status;
        if !is_assigned(task) || task.node_id != c.node_id || TaskState::try_from(told.state).is_err() {
            continue;
        }
        if is_evicted(task) {
            if told.state > TaskState::Running as i32 {
                stopped(state, at, &report.task_id);
            }
            continue;
        }
        let known = &task.status;
        let newer =
            told.state > known.state || (told.state == known.state && told.timestamp > known.timestamp);
        if !newer {
            continue;
        }
        let held = holds_addresses(task);
        let mut task = Task::clone(task);
        let container = task.status.container.take();
        task.status = told.clone();
        task.status.container = task.status.container.or(container);
        if told.state == TaskState::Running as i32 && task.ran_at == 0 {
            task.ran_at = at.now;
        }
        if has_ended(&task) && is_wanted(&task) && task.failed_at == 0 {
            task.failed_at = at.now;
        }
        at.touch(&mut task.meta);
        if held && !holds_addresses(&task) {
            rest_addresses(state, &task, at.now + REST);
        }
        state.tasks.insert(report.task_id.clone(), Arc::new(task));
    }
    Ok(Applied::default())
}
