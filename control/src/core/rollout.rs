//! What a service says of its updates and of the end of its tasks, with defaults where it says nothing.

use super::duration;
use crate::model::*;

/// How long a task may take to run before the update that made it is stopped; `0` = for ever.
pub const DEADLINE_LABEL: &str = "skep.update.deadline";
const DEFAULT_DEADLINE: Nanos = 600 * SECOND;

/// How long a task that left all tables may keep its stop signal waiting for the connections it has.
pub const DRAIN_LABEL: &str = "skep.drain";
const DEFAULT_DRAIN: Nanos = 5 * SECOND;
/// A node that is drained, or a slot under replacement, waits no longer.
const MAX_DRAIN: Nanos = 3600 * SECOND;

/// swarmkit api/defaults/service.go.
const DEFAULT_MONITOR: Nanos = 5 * SECOND;
const SECOND: Nanos = 1_000_000_000;

/// How the update or rollback under way is to be done.
pub fn config(service: &Service) -> UpdateConfig {
    let rollback = service
        .update_status
        .as_ref()
        .is_some_and(|s| s.state.starts_with("rollback"));
    let config = if rollback {
        service.spec.rollback
    } else {
        service.spec.update
    };
    config.unwrap_or_else(UpdateConfig::standard)
}

/// How long a task that ran counts as failed if it ends.
pub fn monitor(config: &UpdateConfig) -> Nanos {
    match config.monitor {
        0 => DEFAULT_MONITOR,
        monitor => monitor,
    }
}

/// How long a task may take to run. The start period of its health check comes on top.
pub fn deadline(service: &Service) -> Nanos {
    let health = service.spec.task.container.healthcheck.as_ref();
    match label(&service.spec, DEADLINE_LABEL).ok().flatten() {
        Some(0) => Nanos::MAX,
        Some(deadline) => deadline,
        None => DEFAULT_DEADLINE + health.map_or(0, |h| h.start_period),
    }
}

/// How long the stop signal waits at most for the connections that a task has.
pub fn drain(spec: &ServiceSpec) -> Nanos {
    label(spec, DRAIN_LABEL).ok().flatten().unwrap_or(DEFAULT_DRAIN)
}

/// Whether a task counts as running once it listens: where the old one serves until the new one runs, and no health check
/// says when that is.
pub fn runs_when_listening(spec: &ServiceSpec) -> bool {
    let start_first = spec.update.is_some_and(|u| u.order() == UpdateOrder::StartFirst);
    start_first && spec.task.container.healthcheck.is_none()
}

/// Checks the labels; the error is for the user.
pub fn check_labels(spec: &ServiceSpec) -> Result<(), String> {
    label(spec, DEADLINE_LABEL)?;
    match label(spec, DRAIN_LABEL)? {
        Some(drain) if drain > MAX_DRAIN => Err(format!("label {DRAIN_LABEL}: one hour at most")),
        _ => Ok(()),
    }
}

fn label(spec: &ServiceSpec, name: &str) -> Result<Option<Nanos>, String> {
    let Some(text) = spec.annotations.labels.get(name) else {
        return Ok(None);
    };
    let time = duration::parse(text);
    time.map(Some)
        .ok_or_else(|| format!("label {name}: {text:?} is no duration such as 30s or 1m30s"))
}
