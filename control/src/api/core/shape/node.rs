//! Nodes.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cluster::tls_info;
use super::spec::GenericResource;
use super::{Labels, MetaShape, is_empty};
use crate::core::root;
use crate::model;

/// `POST /nodes/{id}/update`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeSpec {
    #[serde(skip_serializing_if = "is_empty")]
    pub name: String,
    pub labels: Labels,
    #[serde(skip_serializing_if = "is_empty")]
    pub role: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub availability: String,
}

pub fn role_text(role: model::Role) -> &'static str {
    match role {
        model::Role::Worker => "worker",
        model::Role::Manager => "manager",
    }
}

/// In any case, as Swarm takes it.
pub fn parse_role(text: &str) -> Option<model::Role> {
    match text.to_ascii_lowercase().as_str() {
        "worker" => Some(model::Role::Worker),
        "manager" => Some(model::Role::Manager),
        _ => None,
    }
}

/// In any case, as Swarm takes it.
pub fn parse_availability(text: &str) -> Option<model::Availability> {
    match text.to_ascii_lowercase().as_str() {
        "active" => Some(model::Availability::Active),
        "pause" => Some(model::Availability::Pause),
        "drain" => Some(model::Availability::Drain),
        _ => None,
    }
}

pub fn availability_text(availability: model::Availability) -> &'static str {
    match availability {
        model::Availability::Active => "active",
        model::Availability::Pause => "pause",
        model::Availability::Drain => "drain",
    }
}

pub fn node_state_text(state: model::NodeState) -> &'static str {
    match state {
        model::NodeState::Unknown => "unknown",
        model::NodeState::Down => "down",
        model::NodeState::Ready => "ready",
        model::NodeState::Disconnected => "disconnected",
    }
}

impl From<&model::NodeSpec> for NodeSpec {
    fn from(spec: &model::NodeSpec) -> NodeSpec {
        NodeSpec {
            name: spec.annotations.name.clone(),
            labels: spec.annotations.labels.clone(),
            role: role_text(spec.role()).to_string(),
            availability: availability_text(spec.availability()).to_string(),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeShape {
    #[serde(rename = "ID")]
    id: String,
    #[serde(flatten)]
    meta: MetaShape,
    spec: NodeSpec,
    description: Description,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    manager_status: Option<ManagerStatus>,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Description {
    #[serde(skip_serializing_if = "is_empty")]
    hostname: String,
    platform: Platform,
    resources: Resources,
    engine: EngineDescription,
    #[serde(rename = "TLSInfo")]
    tls_info: Value,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Platform {
    #[serde(skip_serializing_if = "is_empty")]
    architecture: String,
    #[serde(rename = "OS", skip_serializing_if = "is_empty")]
    os: String,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Resources {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_empty")]
    nano_cpus: i64,
    #[serde(rename = "MemoryBytes", skip_serializing_if = "is_empty")]
    memory: i64,
    #[serde(rename = "GenericResources", skip_serializing_if = "is_empty")]
    generic: Vec<GenericResource>,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct EngineDescription {
    #[serde(skip_serializing_if = "is_empty")]
    engine_version: String,
    #[serde(skip_serializing_if = "is_empty")]
    labels: Labels,
    #[serde(skip_serializing_if = "is_empty")]
    plugins: Vec<Plugin>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Plugin {
    #[serde(rename = "Type")]
    kind: String,
    name: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    state: &'static str,
    #[serde(skip_serializing_if = "is_empty")]
    message: String,
    #[serde(skip_serializing_if = "is_empty")]
    addr: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ManagerStatus {
    #[serde(skip_serializing_if = "is_empty")]
    pub leader: bool,
    pub reachability: &'static str,
    #[serde(skip_serializing_if = "is_empty")]
    pub addr: String,
}

/// What the node trusts and who signed its certificate. `node ls` calls it ready when both are the swarm's.
fn node_tls(node: &model::Node, cluster: &model::Cluster) -> Value {
    let has = |digest: &[u8], pem: &str| digest == root::digest(pem);
    let current = cluster.root_ca_cert.as_str();
    let rotated = cluster.root_rotation.as_ref().map(|r| r.ca_cert.as_str());
    let issuer = rotated
        .filter(|new| has(&node.issuer_digest, new))
        .unwrap_or(current);
    // Before a rotation ends both roots are trusted, of which the old one is the swarm's; after it, one that has not
    // renewed again trusts more than the swarm's.
    let trusts =
        cluster.root_rotation.is_some() || node.trust_digest.is_empty() || has(&node.trust_digest, current);
    tls_info(if trusts { current } else { "" }, issuer)
}

/// `manager` is what Raft says of a manager node.
pub fn node_shape(
    node: &model::Node,
    cluster: Option<&model::Cluster>,
    manager: Option<ManagerStatus>,
) -> NodeShape {
    let description = node.description.clone().unwrap_or_default();
    let platform = description.platform.unwrap_or_default();
    let plugins = description.plugins.iter().filter_map(|text| {
        let (kind, name) = text.split_once('/')?;
        Some(Plugin {
            kind: kind.to_string(),
            name: name.to_string(),
        })
    });
    NodeShape {
        id: node.id.clone(),
        meta: MetaShape::from(&node.meta),
        spec: NodeSpec::from(&node.spec),
        description: Description {
            hostname: description.hostname,
            platform: Platform {
                architecture: platform.architecture,
                os: platform.os,
            },
            resources: Resources {
                nano_cpus: description.nano_cpus,
                memory: description.memory,
                generic: description.generic.iter().map(GenericResource::from).collect(),
            },
            engine: EngineDescription {
                engine_version: description.engine_version,
                labels: description.engine_labels,
                plugins: plugins.collect(),
            },
            tls_info: cluster.map_or(Value::Null, |cluster| node_tls(node, cluster)),
        },
        status: Status {
            state: node_state_text(node.state()),
            message: node.message.clone(),
            addr: node.address.clone(),
        },
        manager_status: manager,
    }
}
