//! Tasks as listed and inspected.

use serde::Serialize;

use super::network::SwarmNetwork;
use super::spec::{GenericResource, PortConfig, TaskSpec};
use super::{Labels, MetaShape, VersionShape, is_empty, time};
use crate::core::state::{ClusterState, node_name};
use crate::model::{self, TaskState};

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TaskShape {
    #[serde(rename = "ID")]
    id: String,
    #[serde(flatten)]
    meta: MetaShape,
    labels: Labels,
    spec: TaskSpec,
    #[serde(rename = "ServiceID", skip_serializing_if = "is_empty")]
    service_id: String,
    #[serde(skip_serializing_if = "is_empty")]
    slot: u64,
    #[serde(rename = "NodeID", skip_serializing_if = "is_empty")]
    node_id: String,
    status: TaskStatus,
    desired_state: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    networks_attachments: Vec<NetworkAttachment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_iteration: Option<VersionShape>,
    #[serde(rename = "GenericResources", skip_serializing_if = "is_empty")]
    generic: Vec<GenericResource>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TaskStatus {
    timestamp: String,
    state: &'static str,
    #[serde(skip_serializing_if = "is_empty")]
    message: String,
    #[serde(skip_serializing_if = "is_empty")]
    err: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_status: Option<ContainerStatus>,
    port_status: PortStatus,
}

#[derive(Clone, Debug, Serialize)]
struct ContainerStatus {
    #[serde(rename = "ContainerID")]
    container_id: String,
    #[serde(rename = "PID")]
    pid: i64,
    #[serde(rename = "ExitCode")]
    exit_code: i64,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct PortStatus {
    #[serde(skip_serializing_if = "is_empty")]
    ports: Vec<PortConfig>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkAttachment {
    network: SwarmNetwork,
    #[serde(skip_serializing_if = "is_empty")]
    addresses: Vec<String>,
}

pub fn task_state_text(state: TaskState) -> &'static str {
    match state {
        TaskState::New => "new",
        TaskState::Pending => "pending",
        TaskState::Assigned => "assigned",
        TaskState::Accepted => "accepted",
        TaskState::Preparing => "preparing",
        TaskState::Ready => "ready",
        TaskState::Starting => "starting",
        TaskState::Running => "running",
        TaskState::Complete => "complete",
        TaskState::Shutdown => "shutdown",
        TaskState::Failed => "failed",
        TaskState::Rejected => "rejected",
        TaskState::Remove => "remove",
        TaskState::Orphaned => "orphaned",
    }
}

/// Words that the filter `desired-state` takes (`allocated` exists in the API only).
pub fn is_task_state(text: &str) -> bool {
    let known = [
        "new",
        "allocated",
        "pending",
        "assigned",
        "accepted",
        "preparing",
        "ready",
        "starting",
        "running",
        "complete",
        "shutdown",
        "failed",
        "rejected",
        "remove",
        "orphaned",
    ];
    known.contains(&text)
}

/// An attachment whose network is gone meanwhile is left out.
pub fn task_shape(state: &ClusterState, task: &model::Task) -> TaskShape {
    let attachments = task.networks.iter().filter_map(|attachment| {
        let network = state.networks.get(&attachment.network_id)?;
        Some(NetworkAttachment {
            network: SwarmNetwork::from(network.as_ref()),
            addresses: attachment.addresses.clone(),
        })
    });
    TaskShape {
        id: task.id.clone(),
        meta: MetaShape::from(&task.meta),
        labels: Labels::new(),
        // Of a service Swarm shows the runtime, of a task it does not (moby daemon/cluster/convert/task.go).
        spec: TaskSpec {
            runtime: String::new(),
            ..TaskSpec::from(&task.spec)
        },
        service_id: task.service_id.clone(),
        slot: task.slot,
        node_id: task.node_id.clone(),
        status: TaskStatus {
            timestamp: time(task.status.timestamp),
            state: task_state_text(task.status.state()),
            message: message(state, task),
            err: task.status.err.clone(),
            container_status: task.status.container.as_ref().map(|container| ContainerStatus {
                container_id: container.container_id.clone(),
                pid: container.pid,
                exit_code: container.exit_code.unwrap_or(0),
            }),
            port_status: PortStatus {
                ports: task.status.ports.iter().map(PortConfig::from).collect(),
            },
        },
        desired_state: task_state_text(task.desired_state()),
        networks_attachments: attachments.collect(),
        job_iteration: task.job_iteration.map(|index| VersionShape { index }),
        generic: task.generic.iter().map(GenericResource::from).collect(),
    }
}

/// Of a task that left the data of its local volumes behind, it says so.
fn message(state: &ClusterState, task: &model::Task) -> String {
    let message = &task.status.message;
    if task.node_id.is_empty() || task.volume_node.is_empty() || task.volume_node == task.node_id {
        return message.clone();
    }
    let left = state
        .nodes
        .get(&task.volume_node)
        .map_or("a node that was removed", |node| node_name(node));
    format!("{message} (the data of its local volumes is on {left}, which the task left)")
}
