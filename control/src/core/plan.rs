//! What the leader does next: one round of all planners over one state. The answer is data; whoever leads proposes the
//! steps as one command and asks again until none is left.
//!
//! Level-triggered: every round looks at everything and remembers nothing, so it does not matter what woke it.

mod enforce;
mod ingress;
mod orchestrate;
mod reap;
mod rebalance;
mod restart;
mod schedule;
mod update;

use std::collections::{BTreeMap, BTreeSet};

use super::address::AddressBook;
use super::failures::FailureMemory;
use super::state::*;
use crate::model::*;

/// Steps in one round at most: bounds a log entry. The next round goes on.
const MAX_STEPS: usize = 2048;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<TaskStep>,
    /// Owners and observers of ingress addresses that changed.
    pub ranks: Vec<IngressRank>,
    /// When time alone will make more to do (the end of a restart delay, an address that has rested), if nothing else
    /// happens before.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    /// What is to be proposed; nothing once all is done. Ranks come first: where a node is drained, its addresses leave it
    /// before its tasks do.
    pub fn changes(self) -> Vec<Change> {
        let Plan { steps, ranks, .. } = self;
        let ranks = (!ranks.is_empty()).then_some(RankIngressAddresses { ranks });
        let steps = (!steps.is_empty()).then_some(PlanTasks { steps });
        let ranks = ranks.map(Change::RankIngressAddresses);
        ranks.into_iter().chain(steps.map(Change::PlanTasks)).collect()
    }
}

/// Orchestrates, updates, schedules, reaps, and ranks the owners of ingress addresses. `new_id` makes object ids.
///
/// Must be given a state that holds everything committed before this leader's term: a plan made from less could repeat
/// what an earlier leader decided. (A slot never gets two wanted tasks all the same: apply sees to that.)
pub fn plan(
    state: &ClusterState,
    now: Timestamp,
    new_id: &mut dyn FnMut() -> String,
    failures: &FailureMemory,
) -> Plan {
    let services = Services::read(state);
    let mut round = Round {
        state,
        now,
        new_id,
        plan: Plan {
            ranks: ingress::rank(state),
            ..Plan::default()
        },
        touched: BTreeSet::new(),
    };
    for (service_id, slots) in &services.0 {
        match state.services.get(*service_id) {
            Some(service) => orchestrate::service(&mut round, service, slots),
            None => orchestrate::remove_all(&mut round, slots),
        }
    }
    let without_tasks = state
        .services
        .values()
        .filter(|s| !services.0.contains_key(s.id.as_str()));
    for service in without_tasks {
        orchestrate::service(&mut round, service, &Slots::new());
    }
    restart::start_waiting(&mut round, &services);
    enforce::enforce(&mut round);
    rebalance::rebalance(&mut round, &services, failures);
    allocate(&mut round);
    schedule::schedule(&mut round, failures);
    reap::reap(&mut round, &services);
    round.plan.steps.truncate(MAX_STEPS);
    round.plan
}

/// Tasks of a place, oldest first.
type Slots<'a> = BTreeMap<Place<'a>, Vec<&'a Task>>;

/// All tasks by service and place.
struct Services<'a>(BTreeMap<&'a str, Slots<'a>>);

impl<'a> Services<'a> {
    fn read(state: &'a ClusterState) -> Services<'a> {
        let mut services: BTreeMap<&str, Slots> = BTreeMap::new();
        for task in state.tasks.values() {
            let slots = services.entry(&task.service_id).or_default();
            slots.entry(place_of(task)).or_default().push(task);
        }
        for slot in services.values_mut().flat_map(|slots| slots.values_mut()) {
            slot.sort_by_key(|t| (t.meta.created_at, &t.id));
        }
        Services(services)
    }

    fn slots(&self) -> impl Iterator<Item = (&'a str, &Vec<&'a Task>)> {
        self.0
            .iter()
            .flat_map(|(id, slots)| slots.values().map(|slot| (*id, slot)))
    }
}

/// One round under way.
struct Round<'a, 'n> {
    state: &'a ClusterState,
    now: Timestamp,
    new_id: &'n mut dyn FnMut() -> String,
    plan: Plan,
    /// Tasks that have a step already: what the state says of them is out of date.
    touched: BTreeSet<&'a str>,
}

impl<'a> Round<'a, '_> {
    fn step(&mut self, action: TaskAction) {
        self.plan.steps.push(TaskStep { action: Some(action) });
    }

    fn desire(&mut self, task: &'a Task, desired: TaskState) {
        if task.desired_state < desired as i32 {
            self.touched.insert(&task.id);
            self.step(TaskAction::Desire(DesireTask {
                id: task.id.clone(),
                desired_state: desired as i32,
            }));
        }
    }

    /// A task as described, but for its id.
    fn create(&mut self, task: CreateTask) {
        let id = (self.new_id)();
        self.step(TaskAction::Create(CreateTask { id, ..task }));
    }

    fn wake_at(&mut self, when: Timestamp) {
        let soonest = self.plan.wake_at.map_or(when, |known| known.min(when));
        self.plan.wake_at = Some(soonest);
    }

    fn node(&self, task: &Task) -> Option<&'a Node> {
        self.state.nodes.get(&task.node_id).map(|n| &**n)
    }
}

/// Tasks that got no address try again when there is one.
fn allocate(round: &mut Round) {
    let waiting: Vec<&Task> = round
        .state
        .tasks
        .values()
        .filter(|t| {
            t.status.state == TaskState::New as i32 && is_wanted(t) && !round.touched.contains(t.id.as_str())
        })
        .map(|t| &**t)
        .collect();
    if waiting.is_empty() {
        return;
    }
    let mut book = AddressBook::new(round.state, round.now);
    for task in waiting {
        let networks: Option<Vec<&Network>> = task
            .networks
            .iter()
            .map(|n| round.state.networks.get(&n.network_id).map(|n| &**n))
            .collect();
        let Some(networks) = networks else { continue };
        if book.has_room(networks.iter().copied()) {
            for network in networks {
                book.take(network);
            }
            round.step(TaskAction::Allocate(task.id.clone()));
        }
    }
    let rested = round
        .state
        .resting
        .values()
        .filter(|until| **until > round.now)
        .min();
    if let Some(until) = rested {
        round.wake_at(*until);
    }
}
