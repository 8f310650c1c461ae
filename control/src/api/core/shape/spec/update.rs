//! How a service is updated and how its containers' health is found, there and back.

use serde::{Deserialize, Serialize};

use super::SpecError;
use crate::api::core::shape::is_empty;
use crate::model::{self, FailureAction, UpdateOrder};

/// moby api/types/swarm/service.go UpdateConfig.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateConfig {
    pub parallelism: u64,
    #[serde(skip_serializing_if = "is_empty")]
    pub delay: i64,
    #[serde(skip_serializing_if = "is_empty")]
    pub failure_action: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub monitor: i64,
    pub max_failure_ratio: f32,
    #[serde(skip_serializing_if = "is_empty")]
    pub order: String,
}

/// swarmkit api/defaults/service.go.
const DEFAULT_MONITOR: i64 = 5_000_000_000;

impl UpdateConfig {
    /// `inspect?insertDefaults=true`.
    pub fn insert_defaults(config: &mut Option<UpdateConfig>) {
        let config = config.get_or_insert_with(|| UpdateConfig::from(&model::UpdateConfig::standard()));
        if config.monitor == 0 {
            config.monitor = DEFAULT_MONITOR;
        }
    }

    pub fn into_model(self) -> Result<model::UpdateConfig, SpecError> {
        let failure_action = match self.failure_action.as_str() {
            "" | "pause" => FailureAction::Pause,
            "continue" => FailureAction::Continue,
            "rollback" => FailureAction::Rollback,
            _ => return Err(SpecError::FailureAction(self.failure_action)),
        };
        let order = match self.order.as_str() {
            "" | "stop-first" => UpdateOrder::StopFirst,
            "start-first" => UpdateOrder::StartFirst,
            _ => return Err(SpecError::UpdateOrder(self.order)),
        };
        Ok(model::UpdateConfig {
            parallelism: self.parallelism,
            delay: self.delay,
            failure_action: failure_action.into(),
            monitor: self.monitor,
            max_failure_ratio: self.max_failure_ratio,
            order: order.into(),
        })
    }
}

impl From<&model::UpdateConfig> for UpdateConfig {
    fn from(config: &model::UpdateConfig) -> UpdateConfig {
        let failure_action = match config.failure_action() {
            FailureAction::Pause => "pause",
            FailureAction::Continue => "continue",
            FailureAction::Rollback => "rollback",
        };
        let order = match config.order() {
            UpdateOrder::StopFirst => "stop-first",
            UpdateOrder::StartFirst => "start-first",
        };
        UpdateConfig {
            parallelism: config.parallelism,
            delay: config.delay,
            failure_action: failure_action.to_string(),
            monitor: config.monitor,
            max_failure_ratio: config.max_failure_ratio,
            order: order.to_string(),
        }
    }
}

/// moby api/types/container HealthConfig.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthConfig {
    #[serde(skip_serializing_if = "is_empty")]
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub interval: i64,
    #[serde(skip_serializing_if = "is_empty")]
    pub timeout: i64,
    #[serde(skip_serializing_if = "is_empty")]
    pub start_period: i64,
    #[serde(skip_serializing_if = "is_empty")]
    pub start_interval: i64,
    #[serde(skip_serializing_if = "is_empty")]
    pub retries: i64,
}

impl HealthConfig {
    pub fn into_model(self) -> model::HealthConfig {
        model::HealthConfig {
            test: self.test,
            interval: self.interval,
            timeout: self.timeout,
            retries: self.retries,
            start_period: self.start_period,
            start_interval: self.start_interval,
        }
    }
}

impl From<&model::HealthConfig> for HealthConfig {
    fn from(config: &model::HealthConfig) -> HealthConfig {
        HealthConfig {
            test: config.test.clone(),
            interval: config.interval,
            timeout: config.timeout,
            start_period: config.start_period,
            start_interval: config.start_interval,
            retries: config.retries,
        }
    }
}
