//! Checks of specs that need no state. Texts are swarmkit's (manager/controlapi) where it has one.

use std::collections::BTreeSet;

use super::{constraint, rollout};
use crate::model::*;

/// Smallest share of a CPU that can be asked for, in nanoseconds of a second.
const MIN_NANO_CPUS: i64 = 1_000_000;
/// Smallest memory that can be asked for, in bytes.
const MIN_MEMORY: i64 = 4 * 1024 * 1024;
const MAX_NAME: usize = 63;
/// Nanoseconds: the Engine refuses health checks that are faster.
const MIN_HEALTH_TIME: Nanos = 1_000_000;

pub fn refuse(code: Code, message: impl Into<String>) -> Refused {
    Refused {
        code: code as i32,
        message: message.into(),
    }
}

fn invalid(message: impl Into<String>) -> Refused {
    refuse(Code::InvalidArgument, message)
}

/// Names of services and networks: `^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`, at most 63 characters
/// (swarmkit manager/controlapi/common.go).
pub fn name(name: &str) -> Result<(), Refused> {
    if name.is_empty() {
        return Err(invalid("meta: name must be provided"));
    }
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    let inner = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
    if !ends.iter().flatten().all(|b| b.is_ascii_alphanumeric()) || !bytes.iter().all(inner) {
        return Err(invalid("name must be valid as a DNS name component"));
    }
    if name.len() > MAX_NAME {
        return Err(invalid("name must be 63 characters or fewer"));
    }
    Ok(())
}

pub fn service(spec: &ServiceSpec) -> Result<(), Refused> {
    name(&spec.annotations.name)?;
    task(&spec.task)?;
    rollout::check_labels(spec).map_err(invalid)?;
    mode(spec)?;
    super::placement::check_labels(spec).map_err(invalid)?;
    if let Some(e) = &spec.endpoint {
        endpoint(e)?;
    }
    for config in [&spec.update, &spec.rollback].into_iter().flatten() {
        update(config)?;
    }
    let mut targets = BTreeSet::new();
    for network in super::state::networks_of(spec) {
        if !targets.insert(&network.target) {
            return Err(invalid(format!(
                "network {} is named twice by the service",
                network.target
            )));
        }
    }
    Ok(())
}

/// swarmkit manager/controlapi/service.go `validateMode` and `validateJob`.
fn mode(spec: &ServiceSpec) -> Result<(), Refused> {
    let is_negative = |number: u64| i64::try_from(number).is_err();
    match &spec.mode {
        Some(ServiceMode::Replicated(mode)) if mode.replicas.is_some_and(is_negative) => {
            return Err(invalid("Number of replicas must be non-negative"));
        }
        Some(ServiceMode::ReplicatedJob(job)) if is_negative(job.max_concurrent) => {
            return Err(invalid("Maximum concurrent jobs must not be negative"));
        }
        Some(ServiceMode::ReplicatedJob(job)) if is_negative(job.total_completions) => {
            return Err(invalid("Total completed jobs must not be negative"));
        }
        _ => {}
    }
    if super::state::is_job(spec) && spec.update.is_some() {
        return Err(invalid("Jobs may not have an update config"));
    }
    Ok(())
}

fn task(spec: &TaskSpec) -> Result<(), Refused> {
    if let Some(r) = &spec.resources {
        let limits = r.limits.as_ref().map(|l| (l.nano_cpus, l.memory));
        let reservations = r.reservations.as_ref().map(|l| (l.nano_cpus, l.memory));
        for (cpus, memory) in limits.into_iter().chain(reservations) {
            resources(cpus, memory)?;
        }
        let generic = r.reservations.as_ref().map_or(&[][..], |l| &l.generic);
        if let Some(named) = generic.iter().find(|g| g.name.is_some()) {
            // swarmkit api/genericresource/validate.go.
            return Err(invalid(format!("invalid argument for resource {}", named.kind)));
        }
    }
    if let Some(policy) = &spec.restart {
        restart(policy)?;
    }
    if let Some(p) = &spec.placement {
        placement(p)?;
    }
    container(&spec.container)
}

fn resources(nano_cpus: i64, memory: i64) -> Result<(), Refused> {
    if nano_cpus != 0 && nano_cpus < MIN_NANO_CPUS {
        let cpus = nano_cpus as f64 / 1e9;
        return Err(invalid(format!(
            "invalid cpu value {cpus}: Must be at least 0.001"
        )));
    }
    if memory != 0 && memory < MIN_MEMORY {
        return Err(invalid(format!(
            "invalid memory value {memory}: Must be at least 4MiB"
        )));
    }
    Ok(())
}

fn restart(policy: &RestartPolicy) -> Result<(), Refused> {
    if let Some(condition) = policy.condition.as_deref()
        && !["", "none", "on-failure", "any"].contains(&condition)
    {
        return Err(invalid(format!("invalid RestartCondition: \"{condition}\"")));
    }
    if policy.delay.is_some_and(|d| d < 0) {
        return Err(invalid("TaskSpec: restart-delay cannot be negative"));
    }
    if policy.window.is_some_and(|w| w < 0) {
        return Err(invalid("TaskSpec: restart-window cannot be negative"));
    }
    Ok(())
}

fn placement(placement: &Placement) -> Result<(), Refused> {
    for text in &placement.constraints {
        constraint::parse(text).map_err(invalid)?;
    }
    for descriptor in &placement.spread {
        if constraint::label_value(descriptor, &Node::default()).is_none() {
            return Err(invalid(format!(
                "invalid placement preference spread={descriptor}: only node.labels.NAME and engine.labels.NAME can be spread over"
            )));
        }
    }
    Ok(())
}

fn container(spec: &ContainerSpec) -> Result<(), Refused> {
    if spec.image.is_empty() {
        return Err(invalid("ContainerSpec: image reference must be provided"));
    }
    if spec.stop_grace_period.is_some_and(|p| p < 0) {
        return Err(invalid("ContainerSpec: stop-grace-period cannot be negative"));
    }
    if let Some(config) = &spec.healthcheck {
        health(config)?;
    }
    let mut targets = BTreeSet::new();
    for mount in &spec.mounts {
        if !targets.insert(&mount.target) {
            return Err(invalid(format!(
                "ContainerSpec: duplicate mount point: {}",
                mount.target
            )));
        }
    }
    Ok(())
}

/// swarmkit manager/controlapi/service.go `validateUpdate`; its texts name the update of a rollback, too.
fn update(config: &UpdateConfig) -> Result<(), Refused> {
    if config.delay < 0 {
        return Err(invalid("TaskSpec: update-delay cannot be negative"));
    }
    if config.monitor < 0 {
        return Err(invalid("TaskSpec: update-monitor cannot be negative"));
    }
    if !(0.0..=1.0).contains(&config.max_failure_ratio) {
        return Err(invalid(
            "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
        ));
    }
    Ok(())
}

/// swarmkit manager/controlapi/service.go `validateHealthCheck`.
fn health(config: &HealthConfig) -> Result<(), Refused> {
    let times = [
        ("Interval", config.interval),
        ("Timeout", config.timeout),
        ("StartPeriod", config.start_period),
        ("StartInterval", config.start_interval),
    ];
    for (name, time) in times {
        if time != 0 && time < MIN_HEALTH_TIME {
            return Err(invalid(format!(
                "ContainerSpec: {name} in HealthConfig cannot be less than 1ms"
            )));
        }
    }
    if config.retries < 0 {
        return Err(invalid(
            "ContainerSpec: Retries in HealthConfig cannot be negative",
        ));
    }
    Ok(())
}

fn endpoint(spec: &EndpointSpec) -> Result<(), Refused> {
    let mode = spec.mode.as_deref().unwrap_or("");
    if !["", "vip", "dnsrr"].contains(&mode) {
        return Err(invalid(format!("invalid Endpoint mode: \"{mode}\"")));
    }
    let mut published = BTreeSet::new();
    for port in &spec.ports {
        let ingress = port.publish_mode() == PublishMode::Ingress;
        if mode == "dnsrr" && ingress {
            return Err(invalid(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            ));
        }
        if ingress && port.protocol() == Protocol::Sctp {
            return Err(refuse(
                Code::Unimplemented,
                "SCTP ports through the routing mesh are not supported yet",
            ));
        }
        if port.target_port == 0 || port.target_port > 65535 || port.published_port > 65535 {
            return Err(invalid(format!(
                "EndpointSpec: invalid port {}:{}",
                port.published_port, port.target_port
            )));
        }
        if port.published_port != 0 && !published.insert((port.protocol, port.published_port)) {
            return Err(invalid("EndpointSpec: duplicate published ports provided"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["web", "a", "my-app_1", "a--b", "9"] {
            assert_eq!(name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "a.b", "ä", &"a".repeat(64)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
