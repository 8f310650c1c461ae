//! Services as listed and inspected.

use serde::Serialize;

use super::spec::{EndpointSpec, PortConfig, ServiceSpec};
use super::{MetaShape, VersionShape, is_empty, time};
use crate::core::state::{ClusterState, is_completed, is_wanted, networks_of};
use crate::model::{self, ServiceMode, TaskState};

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceShape {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(flatten)]
    pub meta: MetaShape,
    pub spec: ServiceSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_spec: Option<ServiceSpec>,
    pub endpoint: Endpoint,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_status: Option<UpdateStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_status: Option<ServiceStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_status: Option<JobStatus>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct JobStatus {
    job_iteration: VersionShape,
    last_execution: String,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Endpoint {
    spec: EndpointSpec,
    #[serde(skip_serializing_if = "is_empty")]
    ports: Vec<PortConfig>,
    #[serde(rename = "VirtualIPs", skip_serializing_if = "is_empty")]
    virtual_ips: Vec<VirtualIp>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VirtualIp {
    #[serde(rename = "NetworkID")]
    network_id: String,
    /// CIDR text: clients parse it as such, so an entry without an address is left out.
    #[serde(rename = "Addr")]
    address: String,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateStatus {
    #[serde(skip_serializing_if = "is_empty")]
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    message: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceStatus {
    running_tasks: u64,
    desired_tasks: u64,
    completed_tasks: u64,
}

impl From<&model::Service> for ServiceShape {
    fn from(service: &model::Service) -> ServiceShape {
        let vips = service.vips.iter().filter(|vip| !vip.address.is_empty());
        // What has no port and no network has no endpoint that could be allocated (swarmkit
        // manager/allocator/network.go): Swarm shows an empty one, whatever its mode.
        let allocated = !service.ports.is_empty() || !networks_of(&service.spec).is_empty();
        ServiceShape {
            id: service.id.clone(),
            meta: MetaShape::from(&service.meta),
            spec: ServiceSpec::from(&service.spec),
            previous_spec: service.previous_spec.as_ref().map(ServiceSpec::from),
            endpoint: Endpoint {
                spec: service
                    .spec
                    .endpoint
                    .as_ref()
                    .filter(|_| allocated)
                    .map(EndpointSpec::from)
                    .unwrap_or_default(),
                ports: service.ports.iter().map(PortConfig::from).collect(),
                virtual_ips: vips
                    .map(|vip| VirtualIp {
                        network_id: vip.network_id.clone(),
                        address: vip.address.clone(),
                    })
                    .collect(),
            },
            update_status: service.update_status.as_ref().map(|status| UpdateStatus {
                state: status.state.clone(),
                started_at: status.started_at.map(time),
                completed_at: status.completed_at.map(time),
                message: status.message.clone(),
            }),
            service_status: None,
            job_status: service.job.map(|job| JobStatus {
                job_iteration: VersionShape { index: job.iteration },
                last_execution: time(job.last_execution),
            }),
        }
    }
}

/// Counts for `?status=true` (swarmkit manager/controlapi/service.go `ListServiceStatuses`); of a job only tasks of its
/// present iteration count. A task counts as running while it is meant to: the last report of a dead node's task says
/// RUNNING for ever.
pub fn service_status(state: &ClusterState, service: &model::Service) -> ServiceStatus {
    let iteration = service.job.map(|job| job.iteration);
    let tasks = || {
        let tasks = state.tasks.values().map(|task| &**task);
        tasks.filter(|task| task.service_id == service.id && task.job_iteration == iteration)
    };
    let count = |counts: &dyn Fn(&model::Task) -> bool| tasks().filter(|task| counts(task)).count() as u64;
    let desired_tasks = match &service.spec.mode {
        Some(ServiceMode::Replicated(mode)) => mode.replicas.unwrap_or(1),
        Some(ServiceMode::ReplicatedJob(job)) => job.max_concurrent,
        Some(ServiceMode::Global(_) | ServiceMode::GlobalJob(_)) => {
            count(&|task| is_wanted(task) && !is_completed(task))
        }
        None => 1,
    };
    ServiceStatus {
        running_tasks: count(&|task| task.status.state() == TaskState::Running && is_wanted(task)),
        desired_tasks,
        completed_tasks: count(&is_completed),
    }
}
