//! moby api/types/swarm/container.go ContainerSpec and what is in it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::HealthConfig;
use crate::api::core::shape::{Labels, is_empty};

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerSpec {
    #[serde(skip_serializing_if = "is_empty")]
    pub image: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub labels: Labels,
    #[serde(skip_serializing_if = "is_empty")]
    pub command: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub args: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub hostname: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub dir: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing)]
    pub privileges: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    #[serde(skip_serializing_if = "is_empty")]
    pub stop_signal: String,
    #[serde(rename = "TTY", skip_serializing_if = "is_empty")]
    pub tty: bool,
    #[serde(skip_serializing_if = "is_empty")]
    pub open_stdin: bool,
    #[serde(skip_serializing_if = "is_empty")]
    pub read_only: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace_period: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    #[serde(skip_serializing_if = "is_empty")]
    pub hosts: Vec<String>,
    #[serde(rename = "DNSConfig", skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<DnsConfig>,
    #[serde(skip_serializing)]
    pub secrets: Vec<Value>,
    #[serde(skip_serializing)]
    pub configs: Vec<Value>,
    #[serde(skip_serializing_if = "is_empty")]
    pub isolation: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub sysctls: Labels,
    #[serde(skip_serializing_if = "is_empty")]
    pub capability_add: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub capability_drop: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
    #[serde(skip_serializing)]
    pub oom_score_adj: i64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DnsConfig {
    #[serde(skip_serializing_if = "is_empty")]
    pub nameservers: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub options: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Ulimit {
    #[serde(rename = "Name", skip_serializing_if = "is_empty")]
    pub name: String,
    #[serde(rename = "Soft", skip_serializing_if = "is_empty")]
    pub soft: i64,
    #[serde(rename = "Hard", skip_serializing_if = "is_empty")]
    pub hard: i64,
}

/// moby api/types/mount/mount.go.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    #[serde(rename = "Type", skip_serializing_if = "is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub source: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub target: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub read_only: bool,
    #[serde(skip_serializing)]
    pub consistency: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BindOptions {
    #[serde(skip_serializing_if = "is_empty")]
    pub propagation: String,
    #[serde(skip_serializing)]
    pub non_recursive: bool,
    #[serde(skip_serializing)]
    pub create_mountpoint: bool,
    #[serde(skip_serializing)]
    pub read_only_non_recursive: bool,
    #[serde(skip_serializing)]
    pub read_only_force_recursive: bool,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    #[serde(skip_serializing_if = "is_empty")]
    pub no_copy: bool,
    #[serde(skip_serializing_if = "is_empty")]
    pub labels: Labels,
    #[serde(skip_serializing)]
    pub subpath: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<VolumeDriver>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeDriver {
    #[serde(skip_serializing_if = "is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub options: Labels,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TmpfsOptions {
    #[serde(skip_serializing_if = "is_empty")]
    pub size_bytes: i64,
    #[serde(skip_serializing_if = "is_empty")]
    pub mode: u32,
    #[serde(skip_serializing)]
    pub options: Vec<Value>,
}

impl ContainerSpec {
    pub fn not_built(&self) -> Option<&'static str> {
        if !self.secrets.is_empty() {
            Some("a secret in a service")
        } else if !self.configs.is_empty() {
            Some("a config in a service")
        } else if self.privileges.as_ref().is_some_and(asks_for_something) {
            Some("a credential spec, SELinux, seccomp, AppArmor or no-new-privileges option")
        } else if self.oom_score_adj != 0 {
            Some("an OOM score adjustment")
        } else {
            self.mounts.iter().find_map(Mount::not_built)
        }
    }
}

impl Mount {
    fn not_built(&self) -> Option<&'static str> {
        let bind = self.bind_options.as_ref();
        match self.kind.as_str() {
            "cluster" => Some("a cluster volume (CSI)"),
            "npipe" => Some("a named pipe mount"),
            "image" => Some("an image mount"),
            _ if self
                .volume_options
                .as_ref()
                .is_some_and(|o| !o.subpath.is_empty()) =>
            {
                Some("a subpath of a volume")
            }
            _ if bind.is_some_and(|o| o.non_recursive || o.create_mountpoint) => {
                Some("bind option non-recursive or create-mountpoint")
            }
            _ if bind.is_some_and(|o| o.read_only_non_recursive || o.read_only_force_recursive) => {
                Some("bind option read-only non-recursive or force-recursive")
            }
            _ if self.tmpfs_options.as_ref().is_some_and(|o| !o.options.is_empty()) => {
                Some("tmpfs mount options")
            }
            _ => None,
        }
    }
}

/// Whether a value holds more than Go's zero values (clients send `{"CredentialSpec": null, ...}` for nothing).
fn asks_for_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(elements) => elements.iter().any(asks_for_something),
        Value::Object(members) => members.values().any(asks_for_something),
    }
}
