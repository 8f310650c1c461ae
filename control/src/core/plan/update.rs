//! Replaces tasks that are not what their service asks for, a few slots at a time, and does as the service says when a
//! new task fails (swarmkit manager/orchestrator/update/updater.go).
//!
//! Nothing is remembered between rounds: which tasks an update made, when they ran and how they ended stands in the tasks,
//! when it began and with how many slots in the service.

mod outcome;
pub mod slot;

use std::collections::BTreeMap;

use super::{Round, Slots, restart};
use crate::core::dirty::is_up_to_date;
use crate::core::rollout;
use crate::core::state::*;
use crate::model::*;

/// After the last slot, a delay that is longer than the monitor is waited out and this on top.
const AFTER_DELAY: Nanos = 1_000_000_000;

/// An update under way, as one round finds it.
struct Update<'a> {
    service: &'a Service,
    config: UpdateConfig,
    /// Number of the update; 0 if it begins in this round.
    number: u64,
    /// Slots it had to replace when it began.
    slots: u64,
    /// Tasks that it made.
    made: Vec<&'a Task>,
    /// Tasks that stand for slots it has not taken yet, and have to go.
    open: Vec<&'a Task>,
    /// Tasks that do not run yet, whose slots wait for them.
    waiting: Vec<&'a Task>,
}

/// `standing` has the task that stands for each slot of the service.
pub fn service<'a>(
    round: &mut Round<'a, '_>,
    service: &'a Service,
    slots: &Slots<'a>,
    standing: &BTreeMap<Place<'a>, &'a Task>,
) {
    let state = service.update_status.as_ref().map_or("", |s| s.state.as_str());
    // What is paused goes on with the next change of the spec; what is completed left only slots that it gave up.
    if !matches!(state, "" | "updating" | "rollback_started") {
        return;
    }
    let mut update = Update::read(round, service, slots, standing);
    if update.number == 0 {
        if update.open.is_empty() {
            if state == "rollback_started" {
                outcome::complete(round, service);
            }
            return;
        }
        outcome::begin(round, service, update.open.len() as u64);
        update.slots = update.open.len() as u64;
    }
    if outcome::stop(round, &update) {
        return;
    }
    let under_way = update.under_way(round);
    update.replace(round, slots, under_way);
    if update.open.is_empty() && under_way == 0 && update.is_over(round) {
        outcome::complete(round, service);
    }
}

impl<'a> Update<'a> {
    fn read(
        round: &Round<'a, '_>,
        service: &'a Service,
        slots: &Slots<'a>,
        standing: &BTreeMap<Place<'a>, &'a Task>,
    ) -> Update<'a> {
        let progress = service.update_progress.unwrap_or_default();
        let is_ours = |task: &Task| progress.number != 0 && task.update == progress.number;
        let mut update = Update {
            service,
            config: rollout::config(service),
            number: progress.number,
            slots: progress.slots,
            made: Vec::new(),
            open: Vec::new(),
            waiting: Vec::new(),
        };
        for (place, task) in standing {
            let slot = slots.get(place).map_or(&[][..], Vec::as_slice);
            let ours: Vec<&Task> = slot.iter().copied().filter(|t| is_ours(t)).collect();
            if !is_up_to_date(service, task, round.node(task)) {
                if ours.is_empty() {
                    update.open.push(task);
                }
            } else if is_wanted(task) && task.status.state < TaskState::Running as i32 {
                let never_up = ours.iter().any(|t| came_up(t) == 0);
                if never_up || task.update != 0 && came_up(task) == 0 {
                    update.waiting.push(task);
                }
            }
            update.made.extend(ours);
        }
        update
    }

    /// How many slots keep the next ones waiting: their task is yet to run, or ran too short a time ago.
    fn under_way(&self, round: &mut Round) -> usize {
        let mut resting = 0;
        for task in &self.made {
            let until = came_up(task) + self.config.delay;
            if came_up(task) != 0 && until > round.now {
                round.wake_at(until);
                resting += 1;
            }
        }
        self.waiting.len() + resting
    }

    /// Takes as many slots as may be under way. What does not run goes first: nothing is lost by it.
    fn replace(&self, round: &mut Round<'a, '_>, slots: &Slots<'a>, under_way: usize) {
        let parallelism = match usize::try_from(self.config.parallelism) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(number) => number,
        };
        let mut open = self.open.clone();
        open.sort_by_key(|t| (t.status.state == TaskState::Running as i32, place_of(t)));
        for task in open.into_iter().take(parallelism.saturating_sub(under_way)) {
            let slot = slots.get(&place_of(task)).map_or(&[][..], Vec::as_slice);
            match self.config.order() {
                UpdateOrder::StartFirst => slot::start_first(round, self.service, slot, task),
                UpdateOrder::StopFirst => slot::stop_first(round, self.service, slot, task),
            }
        }
    }

    /// Whether the last task has been watched for long enough. The time after which a failure no longer counts stands in
    /// [`outcome::failures`].
    fn is_over(&self, round: &mut Round) -> bool {
        let Some(last) = self.made.iter().map(|t| came_up(t)).max() else {
            return true;
        };
        let monitor = rollout::monitor(&self.config);
        let watched = if self.config.delay >= monitor {
            self.config.delay.saturating_add(AFTER_DELAY)
        } else {
            monitor
        };
        let until = last.saturating_add(watched);
        if until > round.now {
            round.wake_at(until);
        }
        until <= round.now
    }
}

/// When a task of an update ran, or ended without; 0 before. From then on its slot counts as replaced.
fn came_up(task: &Task) -> Timestamp {
    if task.ran_at != 0 {
        task.ran_at
    } else {
        task.failed_at
    }
}
