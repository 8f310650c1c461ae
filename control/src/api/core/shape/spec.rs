//! Service and task specs. Members that Skep does not build yet are read as they are, so that they can be refused
//! by name; they are never written.

mod container;
mod from_model;
mod generic;
mod into_model;
#[cfg(test)]
mod tests;
mod update;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Labels, is_empty};
use crate::model;

pub use container::{ContainerSpec, DnsConfig};
pub use generic::GenericResource;
pub use update::{HealthConfig, UpdateConfig};

/// moby api/types/swarm/service.go ServiceSpec.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceSpec {
    #[serde(skip_serializing_if = "is_empty")]
    pub name: String,
    pub labels: Labels,
    pub task_template: TaskSpec,
    pub mode: ServiceMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_config: Option<UpdateConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_config: Option<UpdateConfig>,
    #[serde(skip_serializing_if = "is_empty")]
    pub networks: Vec<NetworkAttachmentConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_spec: Option<EndpointSpec>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceMode {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicated: Option<Replicated>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicated_job: Option<ReplicatedJob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_job: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Replicated {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ReplicatedJob {
    /// 1 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u64>,
    /// As many as at a time if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_completions: Option<u64>,
}

/// moby api/types/swarm/task.go TaskSpec.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_spec: Option<ContainerSpec>,
    #[serde(skip_serializing)]
    pub plugin_spec: Option<Value>,
    #[serde(skip_serializing)]
    pub network_attachment_spec: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    #[serde(skip_serializing_if = "is_empty")]
    pub networks: Vec<NetworkAttachmentConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_driver: Option<LogDriver>,
    pub force_update: u64,
    #[serde(skip_serializing_if = "is_empty")]
    pub runtime: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ResourceRequirements {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservations: Option<Reservations>,
    /// API 1.52.
    #[serde(skip_serializing)]
    pub swap_bytes: Option<i64>,
    #[serde(skip_serializing)]
    pub memory_swappiness: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Limit {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_empty")]
    pub nano_cpus: i64,
    #[serde(rename = "MemoryBytes", skip_serializing_if = "is_empty")]
    pub memory: i64,
    #[serde(rename = "Pids", skip_serializing_if = "is_empty")]
    pub pids: i64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Reservations {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_empty")]
    pub nano_cpus: i64,
    #[serde(rename = "MemoryBytes", skip_serializing_if = "is_empty")]
    pub memory: i64,
    #[serde(rename = "GenericResources", skip_serializing_if = "is_empty")]
    pub generic: Vec<GenericResource>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    #[serde(skip_serializing_if = "is_empty")]
    pub condition: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Placement {
    #[serde(skip_serializing_if = "is_empty")]
    pub constraints: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preferences: Vec<Preference>,
    #[serde(skip_serializing_if = "is_empty")]
    pub max_replicas: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Preference {
    pub spread: Spread,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Spread {
    pub spread_descriptor: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Platform {
    #[serde(skip_serializing_if = "is_empty")]
    pub architecture: String,
    #[serde(rename = "OS", skip_serializing_if = "is_empty")]
    pub os: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkAttachmentConfig {
    #[serde(skip_serializing_if = "is_empty")]
    pub target: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub aliases: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub driver_opts: Labels,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogDriver {
    #[serde(skip_serializing_if = "is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub options: Labels,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSpec {
    #[serde(skip_serializing_if = "is_empty")]
    pub mode: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortConfig>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortConfig {
    #[serde(skip_serializing_if = "is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub protocol: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub target_port: u32,
    #[serde(skip_serializing_if = "is_empty")]
    pub published_port: u32,
    #[serde(skip_serializing_if = "is_empty")]
    pub publish_mode: String,
}

/// A word that is none of those allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("invalid {field}: {value:?}")]
    Word { field: &'static str, value: String },
    #[error("unrecognized update failure action {0}")]
    FailureAction(String),
    #[error("unrecognized update order {0}")]
    UpdateOrder(String),
    #[error("must specify only one service mode")]
    Modes,
    #[error("mismatched Runtime and *Spec fields")]
    Runtime,
}

impl ServiceSpec {
    /// `inspect?insertDefaults=true` (swarmkit api/defaults/service.go).
    pub fn insert_defaults(&mut self) {
        let task = &mut self.task_template;
        if let Some(container) = &mut task.container_spec {
            container.stop_grace_period.get_or_insert(10_000_000_000);
            container.dns_config.get_or_insert_with(DnsConfig::default);
        }
        let resources = task.resources.get_or_insert_with(Default::default);
        resources.limits.get_or_insert_with(Default::default);
        resources.reservations.get_or_insert_with(Default::default);
        let restart = task.restart_policy.get_or_insert_with(Default::default);
        if restart.condition.is_empty() {
            restart.condition = "any".to_string();
        }
        restart.delay.get_or_insert(5_000_000_000);
        restart.max_attempts.get_or_insert(0);
        task.placement.get_or_insert_with(Default::default);
        for config in [&mut self.update_config, &mut self.rollback_config] {
            UpdateConfig::insert_defaults(config);
        }
    }

    /// The first part of the spec that Swarm has and Skep does not build yet, by name.
    pub fn not_built(&self) -> Option<&'static str> {
        self.task_template.not_built()
    }
}

impl TaskSpec {
    fn not_built(&self) -> Option<&'static str> {
        let resources = self.resources.as_ref();
        if self.plugin_spec.is_some() || self.runtime == "plugin" {
            Some("a plugin service")
        } else if resources.is_some_and(|r| r.swap_bytes.is_some() || r.memory_swappiness.is_some()) {
            Some("a swap limit")
        } else {
            self.container_spec.as_ref().and_then(ContainerSpec::not_built)
        }
    }
}

fn protocol_text(protocol: model::Protocol) -> &'static str {
    match protocol {
        model::Protocol::Tcp => "tcp",
        model::Protocol::Udp => "udp",
        model::Protocol::Sctp => "sctp",
    }
}

fn publish_mode_text(mode: model::PublishMode) -> &'static str {
    match mode {
        model::PublishMode::Ingress => "ingress",
        model::PublishMode::Host => "host",
    }
}
