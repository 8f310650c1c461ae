//! How a task becomes a container (moby daemon/cluster/executor/container/container.go).

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use bollard::models::*;
use skep_control::model::{
    ContainerSpec, GenericResource, Mount as MountSpec, NetworkAttachment, PortConfig, Protocol, PublishMode,
    TaskItem,
};

use crate::core::template::{TemplateError, TemplateValues, expand};

/// Names of the labels that Swarm puts on every container of a task.
pub mod label {
    pub const TASK: &str = "com.docker.swarm.task";
    pub const TASK_ID: &str = "com.docker.swarm.task.id";
    pub const TASK_NAME: &str = "com.docker.swarm.task.name";
    pub const NODE_ID: &str = "com.docker.swarm.node.id";
    pub const SERVICE_ID: &str = "com.docker.swarm.service.id";
    pub const SERVICE_NAME: &str = "com.docker.swarm.service.name";
    /// `engine`: the task's bind of the Docker socket stays the Engine's own.
    pub const DOCKER_SOCKET: &str = "skep.docker-socket";
}

/// What the node adds to a task.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub node_id: String,
    pub os: String,
    pub architecture: String,
    /// Skep's API socket.
    pub api_socket: String,
    /// Generated file to mount over /etc/resolv.conf.
    pub resolv_conf: Option<PathBuf>,
    /// Engine network of each of the task's networks, in the task's order; or the local one alone.
    pub networks: Vec<(String, Option<NetworkAttachment>)>,
}

/// What the Engine is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Creation {
    pub name: String,
    pub body: ContainerCreateBody,
    /// Networks after the first: Engine 20.10 takes one at create.
    pub connect: Vec<(String, NetworkConnectRequest)>,
}

/// Why no container can be made of it; the task is REJECTED with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreationError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("invalid mount type {0:?}")]
    MountType(String),
    #[error("port {0} is published in host mode: name the host's port too (published=...)")]
    HostPort(u32),
    #[error("invalid IP address in the task's network: {0:?}")]
    Address(String),
}

/// # Errors
/// [`CreationError`].
pub fn creation(task: &TaskItem, place: &Place) -> Result<Creation, CreationError> {
    let name = task.name(&place.node_id);
    let values = values(task, place, &name);
    let spec = &task.spec.container;
    let mut env = spec
        .env
        .iter()
        .map(|e| expand(e, &values))
        .collect::<Result<Vec<String>, _>>()?;
    env.extend(resource_env(&task.generic));
    let hostname = spec.hostname.as_deref().map(|h| expand(h, &values)).transpose()?;
    let mut networks = place.networks.iter();
    let first = networks.next();
    let mut host_config = host_config(task, place, &values)?;
    host_config.network_mode = first.map(|(id, _)| id.clone());
    let endpoints =
        first.map(|(id, attachment)| Ok::<_, CreationError>((id.clone(), endpoint(attachment.as_ref())?)));
    let connect: Result<Vec<_>, CreationError> = networks
        .map(|(id, attachment)| {
            let request = NetworkConnectRequest {
                container: String::new(),
                endpoint_config: Some(endpoint(attachment.as_ref())?),
            };
            Ok((id.clone(), request))
        })
        .collect();
    let body = ContainerCreateBody {
        hostname,
        user: spec.user.clone(),
        tty: Some(spec.tty),
        open_stdin: Some(spec.open_stdin),
        env: Some(env),
        entrypoint: list(&spec.command),
        cmd: list(&spec.args),
        image: Some(spec.image.clone()),
        working_dir: spec.dir.clone(),
        labels: Some(labels(task, place, &name)),
        exposed_ports: Some(host_ports(task).map(container_port).collect()),
        stop_signal: spec.stop_signal.clone(),
        healthcheck: spec.healthcheck.as_ref().map(health),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(endpoints.transpose()?.into_iter().collect()),
        }),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    };
    Ok(Creation {
        name,
        body,
        connect: connect?,
    })
}

/// What is absent is what the image says, else the Engine's default.
fn health(config: &skep_control::model::HealthConfig) -> HealthConfig {
    let set = |value: i64| (value != 0).then_some(value);
    HealthConfig {
        test: Some(config.test.clone()).filter(|t| !t.is_empty()),
        interval: set(config.interval),
        timeout: set(config.timeout),
        retries: set(config.retries),
        start_period: set(config.start_period),
        start_interval: set(config.start_interval),
    }
}

/// `DOCKER_RESOURCE_GPU=UUID-1,UUID-2`, one for each kind (swarmkit api/genericresource/string.go `EnvFormat`).
fn resource_env(resources: &[GenericResource]) -> Vec<String> {
    let mut values: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for resource in resources {
        let value = resource.name.clone();
        let value = value.unwrap_or_else(|| resource.amount.to_string());
        values.entry(&resource.kind).or_default().push(value);
    }
    values
        .into_iter()
        .map(|(kind, values)| format!("DOCKER_RESOURCE_{}={}", kind.to_uppercase(), values.join(",")))
        .collect()
}

fn host_ports(task: &TaskItem) -> impl Iterator<Item = &PortConfig> {
    task.ports
        .iter()
        .filter(|p| p.publish_mode() == PublishMode::Host)
}

/// `80/tcp`, as the Engine names a port.
fn container_port(port: &PortConfig) -> String {
    let protocol = match port.protocol() {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    format!("{}/{protocol}", port.target_port)
}

fn port_bindings(task: &TaskItem) -> Result<PortMap, CreationError> {
    let mut bindings = PortMap::new();
    for port in host_ports(task) {
        // The driver is asked for a port by number; it chooses none.
        if port.published_port == 0 {
            return Err(CreationError::HostPort(port.target_port));
        }
        let binding = PortBinding {
            host_ip: None,
            host_port: Some(port.published_port.to_string()),
        };
        let of_port = bindings.entry(container_port(port)).or_default();
        of_port.get_or_insert_default().push(binding);
    }
    Ok(bindings)
}

fn list(values: &[String]) -> Option<Vec<String>> {
    (!values.is_empty()).then(|| values.to_vec())
}

fn values<'a>(task: &'a TaskItem, place: &'a Place, name: &'a str) -> TemplateValues<'a> {
    TemplateValues {
        service_id: &task.service_id,
        service_name: &task.service.name,
        service_labels: Some(&task.service.labels),
        node_id: &place.node_id,
        node_hostname: &task.node_hostname,
        node_os: &place.os,
        node_architecture: &place.architecture,
        task_id: &task.id,
        task_name: name,
        task_slot: task.place(&place.node_id),
    }
}

/// Swarm's labels win over the user's.
fn labels(task: &TaskItem, place: &Place, name: &str) -> HashMap<String, String> {
    let user = task
        .spec
        .container
        .labels
        .iter()
        .map(|(k, v)| (k.clone(), v.clone()));
    let system = [
        (label::TASK, ""),
        (label::TASK_ID, task.id.as_str()),
        (label::TASK_NAME, name),
        (label::NODE_ID, place.node_id.as_str()),
        (label::SERVICE_ID, task.service_id.as_str()),
        (label::SERVICE_NAME, task.service.name.as_str()),
    ];
    user.chain(system.map(|(k, v)| (k.to_string(), v.to_string())))
        .collect()
}

fn host_config(task: &TaskItem, place: &Place, values: &TemplateValues) -> Result<HostConfig, CreationError> {
    let spec = &task.spec.container;
    let limits = task
        .spec
        .resources
        .as_ref()
        .and_then(|r| r.limits.clone())
        .unwrap_or_default();
    let reserved = task
        .spec
        .resources
        .as_ref()
        .and_then(|r| r.reservations.clone())
        .unwrap_or_default();
    let above_zero = |value: i64| (value > 0).then_some(value);
    let log_config = task.spec.log_driver.as_ref().map(|driver| HostConfigLogConfig {
        typ: Some(driver.name.clone()),
        config: Some(driver.options.clone().into_iter().collect()),
    });
    let ulimits = spec.ulimits.iter().map(|u| ResourcesUlimits {
        name: Some(u.name.clone()),
        soft: Some(u.soft),
        hard: Some(u.hard),
    });
    // Without a generated file (no overlay) the Engine's own resolver gets the options.
    let dns = spec
        .dns
        .clone()
        .filter(|_| place.resolv_conf.is_none())
        .unwrap_or_default();
    Ok(HostConfig {
        nano_cpus: above_zero(limits.nano_cpus),
        memory: above_zero(limits.memory),
        memory_reservation: above_zero(reserved.memory),
        pids_limit: above_zero(limits.pids),
        init: spec.init,
        ulimits: Some(ulimits.collect::<Vec<_>>()).filter(|u| !u.is_empty()),
        log_config,
        mounts: Some(mounts(spec, place, values)?),
        port_bindings: Some(port_bindings(task)?),
        cap_add: list(&spec.capability_add),
        cap_drop: list(&spec.capability_drop),
        dns: list(&dns.nameservers),
        dns_search: list(&dns.search),
        dns_options: list(&dns.options),
        extra_hosts: list(&extra_hosts(&spec.hosts)),
        group_add: list(&spec.groups),
        readonly_rootfs: Some(spec.read_only),
        sysctls: Some(spec.sysctls.clone().into_iter().collect::<HashMap<_, _>>()).filter(|s| !s.is_empty()),
        ..HostConfig::default()
    })
}

/// The API has `IP name alias...`, the Engine wants `name:ip`.
fn extra_hosts(hosts: &[String]) -> Vec<String> {
    let entry = |line: &String| -> Vec<String> {
        let mut words = line.split_whitespace();
        let Some(ip) = words.next() else { return Vec::new() };
        words.map(|name| format!("{name}:{ip}")).collect()
    };
    hosts.iter().flat_map(entry).collect()
}

fn mounts(spec: &ContainerSpec, place: &Place, values: &TemplateValues) -> Result<Vec<Mount>, CreationError> {
    let mut mounts = Vec::with_capacity(spec.mounts.len() + 1);
    for wanted in &spec.mounts {
        mounts.push(mount(wanted, spec, place, values)?);
    }
    let taken = mounts
        .iter()
        .any(|m| m.target.as_deref() == Some("/etc/resolv.conf"));
    if let Some(file) = place.resolv_conf.as_ref().filter(|_| !taken) {
        mounts.push(Mount {
            typ: Some(MountType::BIND),
            source: Some(file.to_string_lossy().into_owned()),
            target: Some("/etc/resolv.conf".to_string()),
            ..Mount::default()
        });
    }
    Ok(mounts)
}

fn mount(
    wanted: &MountSpec,
    spec: &ContainerSpec,
    place: &Place,
    values: &TemplateValues,
) -> Result<Mount, CreationError> {
    let typ = match wanted.kind.as_str() {
        "bind" => MountType::BIND,
        "volume" => MountType::VOLUME,
        "tmpfs" => MountType::TMPFS,
        other => return Err(CreationError::MountType(other.to_string())),
    };
    let mut source = expand(&wanted.source, values)?;
    let own_socket = spec
        .labels
        .get(label::DOCKER_SOCKET)
        .is_none_or(|v| v != "engine");
    if typ == MountType::BIND
        && own_socket
        && matches!(source.as_str(), "/var/run/docker.sock" | "/run/docker.sock")
    {
        source.clone_from(&place.api_socket);
    }
    Ok(Mount {
        typ: Some(typ),
        source: (!source.is_empty()).then_some(source),
        target: Some(expand(&wanted.target, values)?),
        read_only: Some(wanted.read_only),
        bind_options: wanted.bind_propagation.as_deref().map(|p| MountBindOptions {
            propagation: propagation(p),
            ..MountBindOptions::default()
        }),
        volume_options: (typ == MountType::VOLUME)
            .then(|| volume_options(wanted, values))
            .transpose()?,
        tmpfs_options: (typ == MountType::TMPFS).then(|| MountTmpfsOptions {
            size_bytes: wanted.tmpfs_size,
            mode: wanted.tmpfs_mode.map(i64::from),
            ..MountTmpfsOptions::default()
        }),
        ..Mount::default()
    })
}

fn propagation(text: &str) -> Option<MountBindOptionsPropagationEnum> {
    use MountBindOptionsPropagationEnum as P;
    match text {
        "private" => Some(P::PRIVATE),
        "rprivate" => Some(P::RPRIVATE),
        "shared" => Some(P::SHARED),
        "rshared" => Some(P::RSHARED),
        "slave" => Some(P::SLAVE),
        "rslave" => Some(P::RSLAVE),
        _ => None,
    }
}

fn volume_options(wanted: &MountSpec, values: &TemplateValues) -> Result<MountVolumeOptions, CreationError> {
    let expanded =
        |map: &std::collections::BTreeMap<String, String>| -> Result<HashMap<String, String>, TemplateError> {
            map.iter()
                .map(|(k, v)| Ok((k.clone(), expand(v, values)?)))
                .collect()
        };
    let driver = wanted.volume_driver.as_ref().map(|name| {
        Ok::<_, TemplateError>(MountVolumeOptionsDriverConfig {
            name: Some(name.clone()),
            options: Some(expanded(&wanted.volume_driver_options)?),
        })
    });
    Ok(MountVolumeOptions {
        no_copy: Some(wanted.volume_no_copy),
        labels: Some(expanded(&wanted.volume_labels)?),
        driver_config: driver.transpose()?,
        ..MountVolumeOptions::default()
    })
}

/// A fixed address; no aliases: the Engine's resolver must not answer service names (it knows no VIP).
fn endpoint(attachment: Option<&NetworkAttachment>) -> Result<EndpointSettings, CreationError> {
    let Some(address) = attachment.and_then(|a| a.addresses.first()) else {
        return Ok(EndpointSettings::default());
    };
    let bare = address.split('/').next().unwrap_or(address);
    let bare: std::net::Ipv4Addr = bare
        .parse()
        .map_err(|_| CreationError::Address(address.clone()))?;
    Ok(EndpointSettings {
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: Some(bare.to_string()),
            ..EndpointIpamConfig::default()
        }),
        ..EndpointSettings::default()
    })
}

#[cfg(test)]
mod tests;
