//! The node's Docker Engine. Every call has a deadline and names what it was about.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, GenericResourcesInner, HealthStatusEnum,
    LocalNodeState, PluginsInfo,
};
use bollard::query_parameters::*;
use bollard::{ClientVersion, Docker};
use futures_util::{Stream, StreamExt};
use skep_control::model::{GenericResource, NodeDescription, Platform};

use crate::core::plan::{Container, Health, Phase};

pub mod create;
pub mod image;
mod local_network;

use create::{Creation, label};

/// A call that only reads.
const READ: Duration = Duration::from_secs(10);
/// Creating and starting: the network driver and the disk take part.
const CHANGE: Duration = Duration::from_secs(60);
/// Oldest Engine we work with (20.10 speaks 1.41); newest we know how to speak.
const OLDEST_MINOR: usize = 41;
const NEWEST_MINOR: usize = 48;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The Engine understood and said no.
    #[error("{message}")]
    Refused {
        operation: &'static str,
        object: String,
        status: u16,
        message: String,
    },
    #[error("{operation} {object}: the Docker Engine does not answer")]
    Unreachable {
        operation: &'static str,
        object: String,
        source: Box<BollardError>,
    },
    #[error("{operation} {object}: no answer from the Docker Engine within {seconds} s")]
    Deadline {
        operation: &'static str,
        object: String,
        seconds: u64,
    },
}

impl EngineError {
    /// The Engine's HTTP status, if it answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            EngineError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// What the agent wants to know of `/info`.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineInfo {
    pub swarm_active: bool,
    pub description: NodeDescription,
}

/// Something happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    pub container_id: String,
    pub action: String,
    /// Empty for a plain container.
    pub task_id: String,
}

/// Connections are made per call: the Engine may come and go.
#[derive(Clone, Debug)]
pub struct Engine {
    socket: PathBuf,
    api_minor: Arc<AtomicUsize>,
    local_network: Arc<tokio::sync::Mutex<()>>,
}

impl Engine {
    pub fn new(socket: PathBuf) -> Engine {
        Engine {
            socket,
            api_minor: Arc::new(AtomicUsize::new(OLDEST_MINOR)),
            local_network: Arc::default(),
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn client(&self, operation: &'static str, object: &str) -> Result<Docker, EngineError> {
        let version = ClientVersion {
            major_version: 1,
            minor_version: self.api_minor.load(Ordering::Relaxed),
        };
        // bollard's own timeout only has to be longer than any of ours.
        Docker::connect_with_unix(&self.socket.to_string_lossy(), 3600, &version)
            .map_err(|source| failed(operation, object, source))
    }

    /// Agrees on an API version. Call it whenever the Engine may be another than before.
    ///
    /// # Errors
    /// [`EngineError`]; the version stays as it was.
    pub async fn negotiate(&self) -> Result<(), EngineError> {
        let docker = self.client("ask the version of", "the Docker Engine")?;
        let version = within("ask the version of", "the Docker Engine", READ, docker.version()).await?;
        let newest = version
            .api_version
            .as_deref()
            .and_then(|v| v.strip_prefix("1.")?.parse().ok());
        let newest: usize = newest.unwrap_or(OLDEST_MINOR);
        self.api_minor
            .store(newest.clamp(OLDEST_MINOR, NEWEST_MINOR), Ordering::Relaxed);
        Ok(())
    }

    pub async fn info(&self) -> Result<EngineInfo, EngineError> {
        let docker = self.client("ask", "the Docker Engine")?;
        let info = within("ask", "the Docker Engine", READ, docker.info()).await?;
        let state = info.swarm.as_ref().and_then(|s| s.local_node_state);
        let inactive = matches!(
            state,
            None | Some(LocalNodeState::EMPTY | LocalNodeState::INACTIVE)
        );
        let labels = info.labels.unwrap_or_default();
        let plugins = plugins(info.plugins.unwrap_or_default());
        let description = NodeDescription {
            hostname: info.name.unwrap_or_default(),
            platform: Some(Platform {
                architecture: info.architecture.unwrap_or_default(),
                os: info.os_type.unwrap_or_default(),
            }),
            nano_cpus: info.ncpu.unwrap_or(0) * 1_000_000_000,
            memory: info.mem_total.unwrap_or(0),
            engine_version: info.server_version.unwrap_or_default(),
            engine_labels: labels
                .iter()
                .filter_map(|l| l.split_once('='))
                .map(pair)
                .collect(),
            plugins,
            generic: info
                .generic_resources
                .unwrap_or_default()
                .into_iter()
                .filter_map(generic_resource)
                .collect(),
            ..NodeDescription::default()
        };
        Ok(EngineInfo {
            swarm_active: !inactive,
            description,
        })
    }

    /// Ids of all containers, stopped ones included; only those with `label` (`key` or `key=value`) if it is given.
    pub async fn container_ids(&self, label: Option<&str>) -> Result<Vec<String>, EngineError> {
        let docker = self.client("list", "containers")?;
        let mut options = ListContainersOptionsBuilder::default().all(true);
        if let Some(label) = label {
            options = options.filters(&HashMap::from([("label", vec![label])]));
        }
        let list = within(
            "list",
            "containers",
            READ,
            docker.list_containers(Some(options.build())),
        )
        .await?;
        Ok(list.into_iter().filter_map(|c| c.id).collect())
    }

    /// All containers of this node's tasks.
    pub async fn containers(&self, node_id: &str) -> Result<BTreeMap<String, Container>, EngineError> {
        let mut found = BTreeMap::new();
        for id in self
            .container_ids(Some(&format!("{}={node_id}", label::NODE_ID)))
            .await?
        {
            if let Some(container) = self.container(&id, node_id).await? {
                found.insert(id, container);
            }
        }
        Ok(found)
    }

    /// One container, if it is there and belongs to a task of this node.
    pub async fn container(&self, id: &str, node_id: &str) -> Result<Option<Container>, EngineError> {
        let docker = self.client("inspect", id)?;
        match within("inspect", id, READ, docker.inspect_container(id, None)).await {
            Ok(answer) => Ok(read(answer, node_id)),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates a task's container on all its networks. Answers its id.
    ///
    /// # Errors
    /// [`EngineError`]. When a network cannot be joined the container is removed again.
    pub async fn create(&self, creation: Creation) -> Result<String, EngineError> {
        let docker = self.client("create", &creation.name)?;
        let options = CreateContainerOptionsBuilder::default()
            .name(&creation.name)
            .build();
        let call = docker.create_container(Some(options), creation.body);
        let id = within("create", &creation.name, CHANGE, call).await?.id;
        for request in creation.connect {
            let (network, mut request) = request;
            request.container = id.clone();
            let joined = within(
                "connect to a network",
                &creation.name,
                CHANGE,
                docker.connect_network(&network, request),
            );
            if let Err(error) = joined.await {
                if let Err(second) = self.remove(&id).await {
                    tracing::warn!(container = %id, error = %second, "remove a half-made container");
                }
                return Err(error);
            }
        }
        Ok(id)
    }

    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        let docker = self.client("start", id)?;
        within("start", id, CHANGE, docker.start_container(id, None)).await
    }

    /// Stop signal, then kill after `grace`. Stopped or gone is success.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), EngineError> {
        let docker = self.client("stop", id)?;
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        gone_is_fine(
            within(
                "stop",
                id,
                grace + CHANGE,
                docker.stop_container(id, Some(options)),
            )
            .await,
        )
    }

    /// Removes a container with its anonymous volumes, killing it if it runs. Gone is success.
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let docker = self.client("remove", id)?;
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        gone_is_fine(within("remove", id, CHANGE, docker.remove_container(id, Some(options))).await)
    }

    /// Container events from now on; ends when the Engine goes.
    pub fn events(
        &self,
    ) -> Result<impl Stream<Item = Result<ContainerEvent, EngineError>> + use<>, EngineError> {
        let docker = self.client("follow events of", "the Docker Engine")?;
        let filters = HashMap::from([
            ("type", vec!["container"]),
            (
                "event",
                vec!["create", "start", "die", "destroy", "rename", "health_status"],
            ),
        ]);
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        let stream = docker.events(Some(options)).map(|event| {
            let event = event.map_err(|source| failed("follow events of", "the Docker Engine", source))?;
            let actor = event.actor.unwrap_or_default();
            let mut attributes = actor.attributes.unwrap_or_default();
            Ok(ContainerEvent {
                container_id: actor.id.unwrap_or_default(),
                action: event.action.unwrap_or_default(),
                task_id: attributes.remove(label::TASK_ID).unwrap_or_default(),
            })
        });
        Ok(stream)
    }
}

fn pair((key, value): (&str, &str)) -> (String, String) {
    (key.to_string(), value.to_string())
}

fn gone_is_fine(result: Result<(), EngineError>) -> Result<(), EngineError> {
    match result {
        Err(error) if error.status() == Some(404) => Ok(()),
        other => other,
    }
}

async fn within<T>(
    operation: &'static str,
    object: &str,
    deadline: Duration,
    call: impl Future<Output = Result<T, BollardError>>,
) -> Result<T, EngineError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(failed(operation, object, source)),
        Err(_) => Err(EngineError::Deadline {
            operation,
            object: object.to_string(),
            seconds: deadline.as_secs(),
        }),
    }
}

fn failed(operation: &'static str, object: &str, source: BollardError) -> EngineError {
    let object = object.to_string();
    match source {
        BollardError::DockerResponseServerError { status_code, message } => EngineError::Refused {
            operation,
            object,
            status: status_code,
            message,
        },
        source => EngineError::Unreachable {
            operation,
            object,
            source: Box::new(source),
        },
    }
}

fn read(answer: ContainerInspectResponse, node_id: &str) -> Option<Container> {
    let labels = answer.config?.labels?;
    if labels.get(label::NODE_ID).is_none_or(|id| id != node_id) {
        return None;
    }
    let task_id = labels.get(label::TASK_ID)?.clone();
    let state = answer.state.unwrap_or_default();
    use ContainerStateStatusEnum as Status;
    let phase = match state.status {
        Some(Status::CREATED) => Phase::Created,
        Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING | Status::STOPPING) => Phase::Running {
            pid: state.pid.unwrap_or(0),
        },
        _ => Phase::Exited {
            code: state.exit_code.unwrap_or(0),
        },
    };
    let health = match state.health.and_then(|h| h.status) {
        None | Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE) => Health::Unchecked,
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
    };
    Some(Container {
        id: answer.id?,
        task_id,
        phase,
        health,
    })
}

/// `Type/Name` pairs in Swarm's order, the driver of overlay networks among them (moby
/// daemon/cluster/executor/container/executor.go `Describe`).
fn plugins(info: PluginsInfo) -> Vec<String> {
    let kinds = [
        ("Authorization", info.authorization),
        ("Log", info.log),
        ("Network", info.network),
        ("Volume", info.volume),
    ];
    let told = kinds.into_iter().flat_map(|(kind, names)| {
        let names = names.unwrap_or_default();
        names.into_iter().map(move |name| format!("{kind}/{name}"))
    });
    let all: BTreeSet<String> = told.chain(["Network/overlay".to_string()]).collect();
    all.into_iter().collect()
}

/// `None` for what is neither an amount nor a name.
fn generic_resource(told: GenericResourcesInner) -> Option<GenericResource> {
    match (told.discrete_resource_spec, told.named_resource_spec) {
        (Some(discrete), _) => Some(GenericResource {
            kind: discrete.kind?,
            name: None,
            amount: discrete.value?,
        }),
        (None, Some(named)) => Some(GenericResource {
            kind: named.kind?,
            name: Some(named.value?),
            amount: 0,
        }),
        (None, None) => None,
    }
}
