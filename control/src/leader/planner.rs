//! Asks the planners after every change of the state and proposes their steps, until nothing is left to do.

use std::sync::Arc;
use std::time::Duration;

use crate::core::failures::FailureMemory;
use crate::core::plan::plan;
use crate::manager::{ControlError, Propose};
use crate::model::id::object_id;
use crate::model::*;
use crate::raft::group::{Group, now};

/// How long changes are gathered before planning: one `service create` or one node's reports make several.
const GATHER: Duration = Duration::from_millis(10);
/// Rounds in a row that are planned at full speed. More means that apply skips what is planned: that must not fill the log.
const FULL_SPEED: u32 = 64;
/// After a proposal that failed, and between rounds beyond [`FULL_SPEED`].
const RETRY: Duration = Duration::from_millis(500);

/// Runs while this manager leads.
pub async fn plan_and_propose(group: Arc<Group>) {
    let mut state = group.state();
    let mut failures = FailureMemory::default();
    let mut rounds = 0;
    loop {
        let current = state.borrow_and_update().clone();
        let time = now();
        failures.observe(&current, time);
        let plan = plan(&current, time, &mut || object_id(rand::random()), &failures);
        let wake_at = plan.wake_at;
        let changes = plan.changes();
        if !changes.is_empty() {
            tracing::debug!(changes = changes.len(), "planned");
            rounds += 1;
            if rounds > FULL_SPEED {
                tracing::warn!(rounds, "the planners find no end");
                tokio::time::sleep(RETRY).await;
            }
            for change in changes {
                // Planned again from the state that holds them: propose waits until it is applied.
                if let Err(error) = group.propose(change).await {
                    report(&error);
                    tokio::time::sleep(RETRY).await;
                    break;
                }
            }
            continue;
        }
        rounds = 0;
        tokio::select! {
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(GATHER).await;
            }
            () = sleep_until(wake_at) => {}
        }
    }
}

async fn sleep_until(wake_at: Option<Timestamp>) {
    match wake_at {
        Some(at) => {
            let nanos = u64::try_from(at.saturating_sub(now())).unwrap_or(0);
            // Not in a tight loop, should the planner name a time that does nothing.
            tokio::time::sleep(Duration::from_nanos(nanos).max(GATHER)).await;
        }
        None => std::future::pending().await,
    }
}

fn report(error: &ControlError) {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "cannot commit what was planned"
    );
}
