//! Cluster and swarm spec.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::spec::LogDriver;
use super::{Labels, MetaShape, is_empty};
use crate::core::root;
use crate::model;

/// Swarm's defaults (swarmkit manager/state/raft/raft.go, api/defaults).
const SNAPSHOT_INTERVAL: u64 = 10_000;
const ENTRIES_FOR_SLOW_FOLLOWERS: u64 = 500;
const HISTORY_LIMIT: i64 = 5;
const HEARTBEAT_PERIOD: i64 = 5_000_000_000;
const CERT_EXPIRY: i64 = 2160 * 3600 * 1_000_000_000;

/// moby api/types/swarm/swarm.go Spec.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SwarmSpec {
    #[serde(skip_serializing_if = "is_empty")]
    pub name: String,
    pub labels: Labels,
    pub orchestration: Orchestration,
    pub raft: Raft,
    pub dispatcher: Dispatcher,
    #[serde(rename = "CAConfig")]
    pub ca_config: CaConfig,
    pub task_defaults: TaskDefaults,
    pub encryption_config: EncryptionConfig,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Orchestration {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_history_retention_limit: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Raft {
    #[serde(skip_serializing_if = "is_empty")]
    pub snapshot_interval: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_old_snapshots: Option<u64>,
    #[serde(skip_serializing_if = "is_empty")]
    pub log_entries_for_slow_followers: u64,
    pub election_tick: i64,
    pub heartbeat_tick: i64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Dispatcher {
    #[serde(skip_serializing_if = "is_empty")]
    pub heartbeat_period: i64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CaConfig {
    #[serde(skip_serializing_if = "is_empty")]
    pub node_cert_expiry: i64,
    #[serde(rename = "ExternalCAs", skip_serializing)]
    pub external_cas: Vec<Value>,
    #[serde(rename = "SigningCACert", skip_serializing)]
    pub signing_ca_cert: String,
    #[serde(rename = "SigningCAKey", skip_serializing)]
    pub signing_ca_key: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub force_rotate: u64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskDefaults {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_driver: Option<LogDriver>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EncryptionConfig {
    pub auto_lock_managers: bool,
}

impl SwarmSpec {
    /// The first part of the spec that is not built, by name.
    pub fn not_built(&self) -> Option<&'static str> {
        let ca = &self.ca_config;
        if !ca.external_cas.is_empty() {
            Some("an external certificate authority")
        } else if !ca.signing_ca_cert.is_empty() || !ca.signing_ca_key.is_empty() {
            Some("a root certificate of one's own (--ca-cert, --ca-key)")
        } else {
            None
        }
    }

    pub fn into_model(self) -> model::ClusterSpec {
        let some = |value: u64| (value != 0).then_some(value);
        let some_time = |value: i64| (value != 0).then_some(value);
        model::ClusterSpec {
            annotations: model::Annotations {
                name: "default".to_string(),
                labels: self.labels,
            },
            task_history_limit: self.orchestration.task_history_retention_limit,
            snapshot_interval: some(self.raft.snapshot_interval),
            keep_old_snapshots: self.raft.keep_old_snapshots,
            log_entries_for_slow_followers: some(self.raft.log_entries_for_slow_followers),
            heartbeat_period: some_time(self.dispatcher.heartbeat_period),
            node_cert_expiry: some_time(self.ca_config.node_cert_expiry),
            task_log_driver: self.task_defaults.log_driver.map(LogDriver::into_model),
            auto_lock_managers: self.encryption_config.auto_lock_managers,
            force_rotate: self.ca_config.force_rotate,
        }
    }
}

impl From<&model::ClusterSpec> for SwarmSpec {
    fn from(spec: &model::ClusterSpec) -> SwarmSpec {
        SwarmSpec {
            name: spec.annotations.name.clone(),
            labels: spec.annotations.labels.clone(),
            orchestration: Orchestration {
                task_history_retention_limit: Some(spec.task_history_limit.unwrap_or(HISTORY_LIMIT)),
            },
            raft: Raft {
                snapshot_interval: spec.snapshot_interval.unwrap_or(SNAPSHOT_INTERVAL),
                keep_old_snapshots: Some(spec.keep_old_snapshots.unwrap_or(0)),
                log_entries_for_slow_followers: spec
                    .log_entries_for_slow_followers
                    .unwrap_or(ENTRIES_FOR_SLOW_FOLLOWERS),
                election_tick: 10,
                heartbeat_tick: 1,
            },
            dispatcher: Dispatcher {
                heartbeat_period: spec.heartbeat_period.unwrap_or(HEARTBEAT_PERIOD),
            },
            ca_config: CaConfig {
                node_cert_expiry: spec.node_cert_expiry.unwrap_or(CERT_EXPIRY),
                force_rotate: spec.force_rotate,
                ..CaConfig::default()
            },
            task_defaults: TaskDefaults {
                log_driver: spec.task_log_driver.as_ref().map(LogDriver::from),
            },
            encryption_config: EncryptionConfig {
                auto_lock_managers: spec.auto_lock_managers,
            },
        }
    }
}

/// moby api/types/swarm/swarm.go ClusterInfo.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ClusterInfo {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(flatten)]
    pub meta: MetaShape,
    pub spec: SwarmSpec,
    #[serde(rename = "TLSInfo")]
    pub tls_info: Value,
    pub root_rotation_in_progress: bool,
    pub default_addr_pool: Option<Vec<String>>,
    pub subnet_size: u32,
    pub data_path_port: u32,
}

impl From<&model::Cluster> for ClusterInfo {
    fn from(cluster: &model::Cluster) -> ClusterInfo {
        ClusterInfo {
            id: cluster.id.clone(),
            meta: MetaShape::from(&cluster.meta),
            spec: SwarmSpec::from(&cluster.spec),
            // During a rotation the old root is trusted and the new one signs (moby daemon/cluster/convert/swarm.go).
            tls_info: tls_info(&cluster.root_ca_cert, root::signing(cluster)),
            root_rotation_in_progress: cluster.root_rotation.is_some(),
            default_addr_pool: cluster
                .default_address_pools_set
                .then(|| cluster.default_address_pools.clone()),
            subnet_size: cluster.subnet_size,
            data_path_port: cluster.data_path_port,
        }
    }
}

/// The root that is trusted, and the subject and public key of the one that signs, as DER in base64.
pub fn tls_info(root: &str, issuer: &str) -> Value {
    let mut info = json!({"TrustRoot": root});
    if let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(issuer.as_bytes())
        && let Ok(certificate) = pem.parse_x509()
    {
        info["CertIssuerSubject"] = Value::String(STANDARD.encode(certificate.subject().as_raw()));
        info["CertIssuerPublicKey"] = Value::String(STANDARD.encode(certificate.public_key().raw));
    }
    info
}
