//! From the model to the API.

use super::container::{
    BindOptions, ContainerSpec, DnsConfig, Mount, TmpfsOptions, Ulimit, VolumeDriver, VolumeOptions,
};
use super::*;

impl From<&model::ServiceSpec> for ServiceSpec {
    fn from(spec: &model::ServiceSpec) -> ServiceSpec {
        let mode = match &spec.mode {
            Some(model::ServiceMode::Global(_)) => ServiceMode {
                global: Some(nothing()),
                ..ServiceMode::default()
            },
            Some(model::ServiceMode::ReplicatedJob(job)) => ServiceMode {
                replicated_job: Some(ReplicatedJob {
                    max_concurrent: Some(job.max_concurrent),
                    total_completions: Some(job.total_completions),
                }),
                ..ServiceMode::default()
            },
            Some(model::ServiceMode::GlobalJob(_)) => ServiceMode {
                global_job: Some(nothing()),
                ..ServiceMode::default()
            },
            Some(model::ServiceMode::Replicated(replicated)) => replicas(replicated.replicas),
            None => replicas(Some(1)),
        };
        ServiceSpec {
            name: spec.annotations.name.clone(),
            labels: spec.annotations.labels.clone(),
            task_template: TaskSpec::from(&spec.task),
            mode,
            update_config: spec.update.as_ref().map(UpdateConfig::from),
            rollback_config: spec.rollback.as_ref().map(UpdateConfig::from),
            networks: networks(&spec.networks),
            endpoint_spec: spec.endpoint.as_ref().map(EndpointSpec::from),
        }
    }
}

/// `{}`: a mode without settings.
fn nothing() -> Value {
    Value::Object(serde_json::Map::new())
}

fn replicas(replicas: Option<u64>) -> ServiceMode {
    ServiceMode {
        replicated: Some(Replicated { replicas }),
        ..ServiceMode::default()
    }
}

fn networks(configs: &[model::NetworkAttachmentConfig]) -> Vec<NetworkAttachmentConfig> {
    configs
        .iter()
        .map(|config| NetworkAttachmentConfig {
            target: config.target.clone(),
            aliases: config.aliases.clone(),
            driver_opts: config.driver_opts.clone(),
        })
        .collect()
}

impl From<&model::TaskSpec> for TaskSpec {
    fn from(spec: &model::TaskSpec) -> TaskSpec {
        TaskSpec {
            container_spec: Some(ContainerSpec::from(&spec.container)),
            plugin_spec: None,
            network_attachment_spec: None,
            resources: spec.resources.as_ref().map(|resources| ResourceRequirements {
                limits: resources.limits.as_ref().map(|limit| Limit {
                    nano_cpus: limit.nano_cpus,
                    memory: limit.memory,
                    pids: limit.pids,
                }),
                reservations: resources.reservations.as_ref().map(|reserved| Reservations {
                    nano_cpus: reserved.nano_cpus,
                    memory: reserved.memory,
                    generic: reserved.generic.iter().map(GenericResource::from).collect(),
                }),
                ..ResourceRequirements::default()
            }),
            restart_policy: spec.restart.as_ref().map(|policy| RestartPolicy {
                condition: policy.condition.clone().unwrap_or_default(),
                delay: policy.delay,
                max_attempts: policy.max_attempts,
                window: policy.window,
            }),
            placement: spec.placement.as_ref().map(Placement::from),
            networks: networks(&spec.networks),
            log_driver: spec.log_driver.as_ref().map(LogDriver::from),
            force_update: spec.force_update,
            runtime: spec.runtime.clone().unwrap_or_default(),
        }
    }
}

impl From<&model::Placement> for Placement {
    fn from(placement: &model::Placement) -> Placement {
        let preference = |descriptor: &String| Preference {
            spread: Spread {
                spread_descriptor: descriptor.clone(),
            },
        };
        let platform = |platform: &model::Platform| Platform {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
        };
        Placement {
            constraints: placement.constraints.clone(),
            preferences: placement.spread.iter().map(preference).collect(),
            max_replicas: placement.max_replicas,
            platforms: placement.platforms.iter().map(platform).collect(),
        }
    }
}

impl From<&model::LogDriver> for LogDriver {
    fn from(driver: &model::LogDriver) -> LogDriver {
        LogDriver {
            name: driver.name.clone(),
            options: driver.options.clone(),
        }
    }
}

impl From<&model::EndpointSpec> for EndpointSpec {
    fn from(spec: &model::EndpointSpec) -> EndpointSpec {
        EndpointSpec {
            mode: spec.mode.clone().unwrap_or_default(),
            ports: spec.ports.iter().map(PortConfig::from).collect(),
        }
    }
}

impl From<&model::PortConfig> for PortConfig {
    fn from(port: &model::PortConfig) -> PortConfig {
        PortConfig {
            name: port.name.clone(),
            protocol: protocol_text(port.protocol()).to_string(),
            target_port: port.target_port,
            published_port: port.published_port,
            publish_mode: publish_mode_text(port.publish_mode()).to_string(),
        }
    }
}

impl From<&model::ContainerSpec> for ContainerSpec {
    fn from(spec: &model::ContainerSpec) -> ContainerSpec {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let ulimit = |limit: &model::Ulimit| Ulimit {
            name: limit.name.clone(),
            soft: limit.soft,
            hard: limit.hard,
        };
        ContainerSpec {
            image: spec.image.clone(),
            labels: spec.labels.clone(),
            command: spec.command.clone(),
            args: spec.args.clone(),
            hostname: text(&spec.hostname),
            env: spec.env.clone(),
            dir: text(&spec.dir),
            user: text(&spec.user),
            groups: spec.groups.clone(),
            init: spec.init,
            stop_signal: text(&spec.stop_signal),
            tty: spec.tty,
            open_stdin: spec.open_stdin,
            read_only: spec.read_only,
            mounts: spec.mounts.iter().map(Mount::from).collect(),
            stop_grace_period: spec.stop_grace_period,
            healthcheck: spec.healthcheck.as_ref().map(HealthConfig::from),
            hosts: spec.hosts.clone(),
            dns_config: spec.dns.as_ref().map(|dns| DnsConfig {
                nameservers: dns.nameservers.clone(),
                search: dns.search.clone(),
                options: dns.options.clone(),
            }),
            // Swarm returns this one filled in (measured).
            isolation: spec.isolation.clone().unwrap_or_else(|| "default".to_string()),
            sysctls: spec.sysctls.clone(),
            capability_add: spec.capability_add.clone(),
            capability_drop: spec.capability_drop.clone(),
            ulimits: spec.ulimits.iter().map(ulimit).collect(),
            ..ContainerSpec::default()
        }
    }
}

impl From<&model::Mount> for Mount {
    fn from(mount: &model::Mount) -> Mount {
        let bind = mount.bind_propagation.as_ref().map(|propagation| BindOptions {
            propagation: propagation.clone(),
            ..BindOptions::default()
        });
        let driver = mount.volume_driver.as_ref().map(|name| VolumeDriver {
            name: name.clone(),
            options: mount.volume_driver_options.clone(),
        });
        let volume = VolumeOptions {
            no_copy: mount.volume_no_copy,
            labels: mount.volume_labels.clone(),
            subpath: String::new(),
            driver_config: driver,
        };
        let has_volume = volume.no_copy || !volume.labels.is_empty() || volume.driver_config.is_some();
        let tmpfs = TmpfsOptions {
            size_bytes: mount.tmpfs_size.unwrap_or(0),
            mode: mount.tmpfs_mode.unwrap_or(0),
            options: Vec::new(),
        };
        let has_tmpfs = tmpfs.size_bytes != 0 || tmpfs.mode != 0;
        Mount {
            kind: mount.kind.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            read_only: mount.read_only,
            consistency: String::new(),
            bind_options: bind,
            volume_options: has_volume.then_some(volume),
            tmpfs_options: has_tmpfs.then_some(tmpfs),
        }
    }
}
