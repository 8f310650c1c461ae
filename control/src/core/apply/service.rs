//! Services: ports and virtual addresses come with the object, or it is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Answer, At, exists, in_sequence, ingress, not_found, task};
use crate::core::address::{self, AddressBook};
use crate::core::ingress::{address_of, scope_of};
use crate::core::state::*;
use crate::core::validate::{self, refuse};
use crate::model::*;

/// Rows of a published service: 2^12, whatever the number of its tasks will be.
const ROWS_LOG2: u32 = 12;
/// Rendezvous hash of the task id, 64 bits.
const ROWS_ALGORITHM: u32 = 1;

pub fn create(state: &mut ClusterState, at: At, c: &CreateService) -> Answer {
    validate::service(&c.spec)?;
    check_networks(state, &c.spec)?;
    ingress::check_labels(state, &c.spec, None)?;
    check_port_conflicts(state, &c.spec, "")?;
    let name = &c.spec.annotations.name;
    if state.service_named(name).is_some() || state.services.contains_key(&c.id) {
        return Err(exists("service", name));
    }
    let mut service = Service {
        id: c.id.clone(),
        meta: at.created(),
        spec: c.spec.clone(),
        previous_spec: None,
        ports: Vec::new(),
        vips: Vec::new(),
        rows: RowsSpec {
            seed: state.cluster.as_ref().map_or(0, |c| c.mesh_seed),
            rows_log2: ROWS_LOG2,
            algorithm: ROWS_ALGORITHM,
        },
        spec_version: at.index,
        update_status: None,
        update_progress: None,
        job: is_job(&c.spec).then_some(JobStatus {
            iteration: 0,
            last_execution: at.now,
        }),
    };
    service.ports = ports(state, &service)?;
    service.vips = vips(state, at, &service)?;
    state.services.insert(c.id.clone(), Arc::new(service));
    Ok(Applied::default())
}

/// Order of the checks: swarmkit manager/controlapi/service.go UpdateService.
pub fn update(state: &mut ClusterState, at: At, c: &UpdateService) -> Answer {
    if !c.rollback {
        validate::service(&c.spec)?;
    }
    let old = state
        .services
        .get(&c.id)
        .cloned()
        .ok_or_else(|| not_found("service", &c.id))?;
    in_sequence(&old.meta, c.version)?;
    let spec = if c.rollback {
        old.previous_spec.clone().ok_or_else(|| {
            let message = format!("service {} does not have a previous spec", c.id);
            refuse(Code::FailedPrecondition, message)
        })?
    } else {
        c.spec.clone()
    };
    if mode_of(&spec) != mode_of(&old.spec) {
        return Err(refuse(Code::Unimplemented, "service mode change is not allowed"));
    }
    if spec.annotations.name != old.spec.annotations.name {
        return Err(refuse(Code::Unimplemented, "renaming services is not supported"));
    }
    let mut service = with_spec(state, at, &old, spec)?;
    service.previous_spec = Some(old.spec.clone());
    service.update_progress = None;
    if let Some(job) = &mut service.job {
        job.iteration += 1;
        job.last_execution = at.now;
    }
    service.update_status = c.rollback.then(|| UpdateStatus {
        state: "rollback_started".to_string(),
        started_at: Some(at.now),
        completed_at: None,
        message: "manually requested rollback".to_string(),
    });
    at.touch(&mut service.meta);
    rest_vips(state, at, &old, &service);
    state.services.insert(c.id.clone(), Arc::new(service));
    Ok(Applied::default())
}

/// The service as another spec makes it, with what has to be allocated for it.
fn with_spec(state: &ClusterState, at: At, old: &Service, spec: ServiceSpec) -> Result<Service, Refused> {
    check_networks(state, &spec)?;
    ingress::check_labels(state, &spec, Some(&old.spec))?;
    check_port_conflicts(state, &spec, &old.id)?;
    let mut service = old.clone();
    if spec != old.spec {
        service.spec_version = at.index;
    }
    service.spec = spec;
    service.ports = ports(state, &service)?;
    service.vips = vips(state, at, &service)?;
    Ok(service)
}

fn rest_vips(state: &mut ClusterState, at: At, old: &Service, new: &Service) {
    for gone in old.vips.iter().filter(|v| !new.vips.contains(v)) {
        state.rest(&gone.network_id, &gone.address, at.now + REST);
    }
}

/// The service back at its previous spec, with the status that `next` has. The previous spec is gone then, so that nobody
/// rolls back to what failed. Where the way back is barred (a network was removed meanwhile), the update is paused.
pub(super) fn turned_back(state: &mut ClusterState, at: At, old: &Service, next: Service) -> Service {
    let spec = old.previous_spec.clone().ok_or_else(|| {
        let message = "no previous spec is available";
        refuse(Code::FailedPrecondition, message)
    });
    match spec.and_then(|spec| with_spec(state, at, &next, spec)) {
        Ok(mut service) => {
            service.previous_spec = None;
            service.update_progress = None;
            rest_vips(state, at, old, &service);
            service
        }
        Err(refused) => {
            let mut service = next;
            if let Some(status) = &mut service.update_status {
                status.state = "paused".to_string();
                status.message = format!(
                    "update paused: cannot roll back service because {}",
                    refused.message
                );
            }
            service
        }
    }
}

/// Its tasks are to be removed; the planner deletes each when it has ended.
pub fn remove(state: &mut ClusterState, at: At, c: &RemoveService) -> Answer {
    let service = state
        .services
        .remove(&c.id)
        .ok_or_else(|| not_found("service", &c.id))?;
    for vip in &service.vips {
        state.rest(&vip.network_id, &vip.address, at.now + REST);
    }
    let tasks: Vec<String> = state
        .tasks
        .values()
        .filter(|t| t.service_id == c.id)
        .map(|t| t.id.clone())
        .collect();
    for id in tasks {
        task::desire(state, at, &id, TaskState::Remove);
    }
    Ok(Applied::default())
}

fn check_networks(state: &ClusterState, spec: &ServiceSpec) -> Result<(), Refused> {
    for asked in networks_of(spec) {
        let network = state
            .networks
            .get(&asked.target)
            .ok_or_else(|| not_found("network", &asked.target))?;
        if network.spec.ingress {
            let name = &network.spec.annotations.name;
            return Err(refuse(
                Code::InvalidArgument,
                format!("Service cannot be explicitly attached to the ingress network \"{name}\""),
            ));
        }
    }
    let asked: &[PortConfig] = spec.endpoint.as_ref().map_or(&[], |e| &e.ports);
    if uses_ingress(asked) && state.ingress().is_none() {
        return Err(refuse(
            Code::FailedPrecondition,
            "service needs ingress network, but no ingress network is present",
        ));
    }
    Ok(())
}

/// A port of the mesh belongs to one service, on each ingress address that services ask for and everywhere else; host
/// ports of several services may be equal, on different nodes (swarmkit manager/controlapi/service.go `checkPortConflicts`).
fn check_port_conflicts(state: &ClusterState, spec: &ServiceSpec, own_id: &str) -> Result<(), Refused> {
    let asked: &[PortConfig] = spec.endpoint.as_ref().map_or(&[], |e| &e.ports);
    let asked: Vec<&PortConfig> = asked.iter().filter(|p| p.published_port != 0).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let scope = address_of(spec).unwrap_or(None);
    for service in state.services.values().filter(|s| s.id != own_id) {
        let apart = scope_of(service) != scope;
        for theirs in &service.ports {
            let clash = asked.iter().find(|p| {
                let modes = (p.publish_mode(), theirs.publish_mode());
                p.published_port == theirs.published_port
                    && p.protocol == theirs.protocol
                    && match modes {
                        (PublishMode::Host, PublishMode::Host) => false,
                        (PublishMode::Ingress, PublishMode::Ingress) => !apart,
                        _ => true,
                    }
            });
            let Some(port) = clash else { continue };
            let how = match theirs.publish_mode() {
                PublishMode::Ingress => "an ingress",
                PublishMode::Host => "a host-published",
            };
            return Err(refuse(
                Code::InvalidArgument,
                format!(
                    "port '{}' is already in use by service '{}' ({}) as {how} port",
                    port.published_port, service.spec.annotations.name, service.id
                ),
            ));
        }
    }
    Ok(())
}

/// The spec's ports with published ports chosen where it leaves them open; a choice once made stays.
fn ports(state: &ClusterState, service: &Service) -> Result<Vec<PortConfig>, Refused> {
    let asked: &[PortConfig] = service.spec.endpoint.as_ref().map_or(&[], |e| &e.ports);
    let mut used = address::used_ports(state, service);
    used.extend(
        asked
            .iter()
            .filter(|p| p.published_port != 0)
            .map(|p| (p.protocol, p.published_port)),
    );
    let mut ports: Vec<PortConfig> = Vec::new();
    for port in asked {
        let mut port = port.clone();
        if port.published_port == 0 && port.publish_mode() == PublishMode::Ingress {
            let open = |known: &PortConfig| PortConfig {
                published_port: 0,
                ..known.clone()
            };
            let kept = service
                .ports
                .iter()
                .find(|known| open(known) == port && used.insert((known.protocol, known.published_port)));
            port.published_port = match kept {
                Some(known) => known.published_port,
                None => address::take_port(&mut used, port.protocol)
                    .ok_or_else(|| refuse(Code::FailedPrecondition, "no dynamic port is left to publish"))?,
            };
        }
        ports.push(port);
    }
    Ok(ports)
}

/// One address for each network in VIP mode, kept while the network stays.
fn vips(state: &ClusterState, at: At, service: &Service) -> Result<Vec<VirtualIp>, Refused> {
    if !is_vip_mode(service.spec.endpoint.as_ref()) {
        return Ok(Vec::new());
    }
    let ingress = state.ingress().filter(|_| uses_ingress(&service.ports));
    let asked = networks_of(&service.spec).iter().map(|n| n.target.as_str());
    let wanted: Vec<&str> = ingress.map(|n| n.id.as_str()).into_iter().chain(asked).collect();
    let known: BTreeSet<&str> = service.vips.iter().map(|v| v.network_id.as_str()).collect();
    let mut book = None;
    let mut vips = Vec::new();
    for id in wanted {
        if known.contains(id) {
            vips.extend(service.vips.iter().filter(|v| v.network_id == id).cloned());
            continue;
        }
        let book = book.get_or_insert_with(|| AddressBook::new(state, at.now));
        let address = state.networks.get(id).and_then(|n| book.take(n)).ok_or_else(|| {
            refuse(
                Code::FailedPrecondition,
                "could not find an available IP while allocating VIP",
            )
        })?;
        vips.push(VirtualIp {
            network_id: id.to_string(),
            address,
        });
    }
    Ok(vips)
}
