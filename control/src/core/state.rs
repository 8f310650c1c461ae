//! The replicated state: what the Raft log folds to.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::*;

/// How long a freed address rests before it is used again: old flows may still name it.
pub const REST: Nanos = 120_000_000_000;
/// How long an address rests whose task may still run unseen, on a node that is down. As long as Swarm waits before it
/// gives a lost task up (swarmkit manager/dispatcher, `defaultNodeDownPeriod`).
pub const LOST_REST: Nanos = 24 * 3600 * 1_000_000_000;

/// Everything the swarm knows, at one Raft index. Records are shared, so a clone is cheap enough to publish
/// after every batch of entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterState {
    /// Raft index of the last entry that was applied.
    pub index: u64,
    /// Absent before the first command.
    pub cluster: Option<Arc<Cluster>>,
    pub nodes: BTreeMap<String, Arc<Node>>,
    pub services: BTreeMap<String, Arc<Service>>,
    pub tasks: BTreeMap<String, Arc<Task>>,
    pub networks: BTreeMap<String, Arc<Network>>,
    pub attachments: BTreeMap<String, Arc<Attachment>>,
    pub ingress_addresses: BTreeMap<String, Arc<IngressAddress>>,
    /// Last numbers handed out; they only rise.
    pub last_node_index: u32,
    pub last_raft_id: u64,
    /// Last VNI handed out: a removed network's is not used again until the numbers wrap round, since its tasks may
    /// still be stopping.
    pub last_vni: u32,
    /// Last number of an ingress address; it only rises.
    pub last_ingress_index: u32,
    /// Addresses that were freed and may not be used again before the time given (key: network id and address without
    /// prefix length; subnets of removed networks stand under the empty network id).
    pub resting: BTreeMap<(String, String), Timestamp>,
}

impl ClusterState {
    /// The service of that name. Names are one whatever their case, as DNS has it.
    pub fn service_named(&self, name: &str) -> Option<&Arc<Service>> {
        self.services
            .values()
            .find(|s| s.spec.annotations.name.eq_ignore_ascii_case(name))
    }

    /// The network of that name.
    pub fn network_named(&self, name: &str) -> Option<&Arc<Network>> {
        self.networks
            .values()
            .find(|n| n.spec.annotations.name.eq_ignore_ascii_case(name))
    }

    /// The routing mesh's network.
    pub fn ingress(&self) -> Option<&Arc<Network>> {
        self.networks.values().find(|n| n.spec.ingress)
    }

    /// Whether the node is there and not known to be down.
    pub fn may_run(&self, node_id: &str) -> bool {
        self.nodes
            .get(node_id)
            .is_some_and(|n| n.state() != NodeState::Down)
    }

    pub(crate) fn rest(&mut self, network_id: &str, cidr: &str, until: Timestamp) {
        let address = cidr.split('/').next().unwrap_or(cidr).to_string();
        self.resting.insert((network_id.to_string(), address), until);
    }
}

/// The networks a service asks for: the template's, else those of the old place in the service's spec.
pub fn networks_of(spec: &ServiceSpec) -> &[NetworkAttachmentConfig] {
    if spec.task.networks.is_empty() {
        &spec.networks
    } else {
        &spec.task.networks
    }
}

/// Replicas asked for; 1 where the spec says nothing.
pub fn replicas_of(spec: &ServiceSpec) -> u64 {
    match &spec.mode {
        Some(ServiceMode::Replicated(mode)) => mode.replicas.unwrap_or(1),
        Some(ServiceMode::Global(_) | ServiceMode::ReplicatedJob(_) | ServiceMode::GlobalJob(_)) => 0,
        None => 1,
    }
}

/// The mode's name, as filters have it.
pub fn mode_of(spec: &ServiceSpec) -> &'static str {
    match &spec.mode {
        Some(ServiceMode::Replicated(_)) | None => "replicated",
        Some(ServiceMode::Global(_)) => "global",
        Some(ServiceMode::ReplicatedJob(_)) => "replicated-job",
        Some(ServiceMode::GlobalJob(_)) => "global-job",
    }
}

/// Whether the service's tasks run to their end.
pub fn is_job(spec: &ServiceSpec) -> bool {
    matches!(
        spec.mode,
        Some(ServiceMode::ReplicatedJob(_) | ServiceMode::GlobalJob(_))
    )
}

/// Whether the service's virtual addresses are wanted (the default) rather than its tasks' own (`dnsrr`).
pub fn is_vip_mode(endpoint: Option<&EndpointSpec>) -> bool {
    endpoint.and_then(|e| e.mode.as_deref()) != Some("dnsrr")
}

/// Whether any of the ports is published through the routing mesh.
pub fn uses_ingress(ports: &[PortConfig]) -> bool {
    ports.iter().any(|p| p.publish_mode() == PublishMode::Ingress)
}

/// What users call the node: its host's name, or its id before it told one.
pub fn node_name(node: &Node) -> &str {
    let name = node.description.as_ref().map_or("", |d| d.hostname.as_str());
    if name.is_empty() { &node.id } else { name }
}

/// The container's name, as Swarm makes it: with the node's id where there is no slot (swarmkit api/naming/naming.go).
/// The first task of a replicated job has slot 0 and reads so, too.
pub fn task_name(task: &Task) -> String {
    let slot = task.slot.to_string();
    let place = if task.slot == 0 { &task.node_id } else { &slot };
    format!("{}.{place}.{}", task.service.name, task.id)
}

/// Where a task of its service stands: successors take the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place<'a> {
    Slot(u64),
    /// Id of the node that the task was made for.
    Node(&'a str),
}

pub fn place_of(task: &Task) -> Place<'_> {
    if task.preassigned {
        Place::Node(&task.node_id)
    } else {
        Place::Slot(task.slot)
    }
}

/// Whether the managers still want the task: desired state up to RUNNING, or COMPLETE, which is what tasks of jobs are
/// wanted to reach.
pub fn is_wanted(task: &Task) -> bool {
    task.desired_state <= TaskState::Complete as i32
}

/// Whether a node was told of the task. One that is made for a node names it before.
pub fn is_assigned(task: &Task) -> bool {
    !task.node_id.is_empty() && task.status.state >= TaskState::Assigned as i32
}

/// Whether the task is one of a job and did what it was made for.
pub fn is_completed(task: &Task) -> bool {
    task.job_iteration.is_some() && task.status.state == TaskState::Complete as i32
}

/// Whether another task in its place would be one too many.
pub fn takes_place(task: &Task) -> bool {
    is_wanted(task) && !is_completed(task)
}

/// Whether the task has ended (observed state above RUNNING).
pub fn has_ended(task: &Task) -> bool {
    observed(task) > TaskState::Running as i32
}

/// Whether the constraint enforcer rejected the task and its node has yet to stop it.
pub fn is_evicted(task: &Task) -> bool {
    task.evicted_from != 0
}

/// What the task's node made of it. The status of a task that was rejected by the constraint enforcer says REJECTED at once.
pub fn observed(task: &Task) -> i32 {
    if is_evicted(task) {
        task.evicted_from
    } else {
        task.status.state
    }
}

/// Whether the task keeps its addresses: until it has ended, or is given up before it was assigned, or is deleted.
pub fn holds_addresses(task: &Task) -> bool {
    !has_ended(task) && (is_wanted(task) || is_assigned(task))
}
