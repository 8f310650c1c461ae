//! From the API to the model. Only what Swarm itself fills in on create is filled in here: the mode, the endpoint
//! mode of a given endpoint, the condition of a given restart policy.

use super::container::{ContainerSpec, Mount};
use super::*;

fn some_text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Checks a word against those allowed; empty means `default`.
fn word(field: &'static str, value: String, default: &str, allowed: &[&str]) -> Result<String, SpecError> {
    let lower = value.to_ascii_lowercase();
    if lower.is_empty() {
        Ok(default.to_string())
    } else if allowed.contains(&lower.as_str()) {
        Ok(lower)
    } else {
        Err(SpecError::Word { field, value })
    }
}

impl ServiceSpec {
    /// Refuses a spec of several modes.
    pub fn check_mode(&self) -> Result<(), SpecError> {
        let mode = &self.mode;
        let given = [
            mode.replicated.is_some(),
            mode.global.is_some(),
            mode.replicated_job.is_some(),
            mode.global_job.is_some(),
        ];
        if given.into_iter().filter(|given| *given).count() > 1 {
            return Err(SpecError::Modes);
        }
        Ok(())
    }

    pub fn into_model(self) -> Result<model::ServiceSpec, SpecError> {
        self.check_mode()?;
        let mode = if self.mode.global.is_some() {
            model::ServiceMode::Global(model::GlobalMode {})
        } else if self.mode.global_job.is_some() {
            model::ServiceMode::GlobalJob(model::GlobalJob {})
        } else if let Some(job) = self.mode.replicated_job {
            let max_concurrent = job.max_concurrent.unwrap_or(1);
            model::ServiceMode::ReplicatedJob(model::ReplicatedJob {
                max_concurrent,
                total_completions: job.total_completions.unwrap_or(max_concurrent),
            })
        } else {
            model::ServiceMode::Replicated(model::ReplicatedMode {
                replicas: Some(self.mode.replicated.and_then(|r| r.replicas).unwrap_or(1)),
            })
        };
        Ok(model::ServiceSpec {
            annotations: model::Annotations {
                name: self.name,
                labels: self.labels,
            },
            task: self.task_template.into_model()?,
            mode: Some(mode),
            endpoint: self.endpoint_spec.map(EndpointSpec::into_model).transpose()?,
            networks: networks(self.networks),
            update: self.update_config.map(UpdateConfig::into_model).transpose()?,
            rollback: self.rollback_config.map(UpdateConfig::into_model).transpose()?,
        })
    }
}

fn networks(configs: Vec<NetworkAttachmentConfig>) -> Vec<model::NetworkAttachmentConfig> {
    configs
        .into_iter()
        .map(|config| model::NetworkAttachmentConfig {
            target: config.target,
            aliases: config.aliases,
            driver_opts: config.driver_opts,
        })
        .collect()
}

impl TaskSpec {
    fn into_model(self) -> Result<model::TaskSpec, SpecError> {
        if self.network_attachment_spec.is_some() || !matches!(self.runtime.as_str(), "" | "container") {
            return Err(SpecError::Runtime);
        }
        let Some(container) = self.container_spec else {
            return Err(SpecError::Runtime);
        };
        Ok(model::TaskSpec {
            container: container.into_model(),
            resources: self.resources.map(|resources| model::ResourceRequirements {
                limits: resources.limits.map(|limit| model::Limit {
                    nano_cpus: limit.nano_cpus,
                    memory: limit.memory,
                    pids: limit.pids,
                }),
                reservations: resources.reservations.map(|reserved| model::Resources {
                    nano_cpus: reserved.nano_cpus,
                    memory: reserved.memory,
                    generic: reserved
                        .generic
                        .into_iter()
                        .map(GenericResource::into_model)
                        .collect(),
                }),
            }),
            restart: self.restart_policy.map(RestartPolicy::into_model).transpose()?,
            placement: self.placement.map(Placement::into_model),
            networks: networks(self.networks),
            log_driver: self.log_driver.map(LogDriver::into_model),
            force_update: self.force_update,
            runtime: Some("container".to_string()),
        })
    }
}

impl RestartPolicy {
    fn into_model(self) -> Result<model::RestartPolicy, SpecError> {
        let allowed = ["none", "on-failure", "any"];
        Ok(model::RestartPolicy {
            condition: Some(word("RestartCondition", self.condition, "any", &allowed)?),
            delay: self.delay,
            max_attempts: Some(self.max_attempts.unwrap_or(0)),
            window: self.window,
        })
    }
}

impl Placement {
    fn into_model(self) -> model::Placement {
        let platforms = self.platforms.into_iter().map(|platform| model::Platform {
            architecture: platform.architecture,
            os: platform.os,
        });
        model::Placement {
            constraints: self.constraints,
            spread: self
                .preferences
                .into_iter()
                .map(|p| p.spread.spread_descriptor)
                .collect(),
            max_replicas: self.max_replicas,
            platforms: platforms.collect(),
        }
    }
}

impl LogDriver {
    pub fn into_model(self) -> model::LogDriver {
        model::LogDriver {
            name: self.name,
            options: self.options,
        }
    }
}

impl EndpointSpec {
    fn into_model(self) -> Result<model::EndpointSpec, SpecError> {
        let ports: Result<_, _> = self.ports.into_iter().map(PortConfig::into_model).collect();
        Ok(model::EndpointSpec {
            mode: Some(word("EndpointSpec.Mode", self.mode, "vip", &["vip", "dnsrr"])?),
            ports: ports?,
        })
    }
}

impl PortConfig {
    fn into_model(self) -> Result<model::PortConfig, SpecError> {
        let protocol = word("Protocol", self.protocol, "tcp", &["tcp", "udp", "sctp"])?;
        let mode = word("PublishMode", self.publish_mode, "ingress", &["ingress", "host"])?;
        let protocol = match protocol.as_str() {
            "udp" => model::Protocol::Udp,
            "sctp" => model::Protocol::Sctp,
            _ => model::Protocol::Tcp,
        };
        let mode = if mode == "host" {
            model::PublishMode::Host
        } else {
            model::PublishMode::Ingress
        };
        Ok(model::PortConfig {
            name: self.name,
            protocol: protocol.into(),
            target_port: self.target_port,
            published_port: self.published_port,
            publish_mode: mode.into(),
        })
    }
}

impl ContainerSpec {
    fn into_model(self) -> model::ContainerSpec {
        let ulimits = self.ulimits.into_iter().map(|limit| model::Ulimit {
            name: limit.name,
            soft: limit.soft,
            hard: limit.hard,
        });
        model::ContainerSpec {
            image: self.image,
            labels: self.labels,
            command: self.command,
            args: self.args,
            hostname: some_text(self.hostname),
            env: self.env,
            dir: some_text(self.dir),
            user: some_text(self.user),
            groups: self.groups,
            tty: self.tty,
            open_stdin: self.open_stdin,
            read_only: self.read_only,
            stop_signal: some_text(self.stop_signal),
            stop_grace_period: self.stop_grace_period,
            hosts: self.hosts,
            dns: self.dns_config.map(|dns| model::DnsConfig {
                nameservers: dns.nameservers,
                search: dns.search,
                options: dns.options,
            }),
            init: self.init,
            mounts: self.mounts.into_iter().map(Mount::into_model).collect(),
            sysctls: self.sysctls,
            capability_add: self.capability_add,
            capability_drop: self.capability_drop,
            ulimits: ulimits.collect(),
            // Read back as "default" when absent: an update with what was read must not look like a change.
            isolation: some_text(self.isolation).filter(|isolation| isolation != "default"),
            registry_auth: None,
            healthcheck: self.healthcheck.map(HealthConfig::into_model),
        }
    }
}

impl Mount {
    fn into_model(self) -> model::Mount {
        let volume = self.volume_options.unwrap_or_default();
        let tmpfs = self.tmpfs_options.unwrap_or_default();
        let driver = volume.driver_config.unwrap_or_default();
        model::Mount {
            // moby takes a mount without a type for a bind.
            kind: if self.kind.is_empty() {
                "bind".to_string()
            } else {
                self.kind
            },
            source: self.source,
            target: self.target,
            read_only: self.read_only,
            bind_propagation: self
                .bind_options
                .and_then(|options| some_text(options.propagation)),
            volume_no_copy: volume.no_copy,
            volume_labels: volume.labels,
            volume_driver: some_text(driver.name),
            volume_driver_options: driver.options,
            tmpfs_size: (tmpfs.size_bytes != 0).then_some(tmpfs.size_bytes),
            tmpfs_mode: (tmpfs.mode != 0).then_some(tmpfs.mode),
        }
    }
}
