//! One action of the plan, carried out against the Engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skep_control::model::{Protocol, TaskItem, TaskState};
use tokio::sync::{Semaphore, watch};

use super::chain;
use crate::core::desired::Desired;
use crate::core::plan::{Action, LISTEN_DEADLINE_MS, Millis};
use crate::core::resolv::{resolv_conf, search_of};
use crate::io::docker::create::{Place, creation};
use crate::io::docker::{Engine, EngineError};
use crate::io::sockets;
use crate::network::Network;

/// Swarm's default of `--stop-grace-period`.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// How long a container waits for the data plane to follow. Then it starts anyway: the tables come later.
const TABLES_DEADLINE: Duration = Duration::from_secs(3);

/// How often a container's sockets are looked at.
const LISTEN_TICK: Duration = Duration::from_millis(20);
const DRAIN_TICK: Duration = Duration::from_millis(40);

/// What came of an action.
#[derive(Debug)]
pub enum Outcome {
    /// Done, or someone was faster: look at the container (by id or name).
    Look(String),
    /// The task is over with this status.
    Ended {
        state: TaskState,
        message: &'static str,
        err: String,
    },
    /// The task listens, or will not soon.
    Listens,
    /// The task has no connection any more, or has had its time.
    Drained,
    /// The Engine or the network gave no answer: again after a while.
    Again { reason: String },
}

pub struct Worker {
    pub engine: Engine,
    pub state_dir: PathBuf,
    pub api_socket: String,
    pub desired: watch::Receiver<Desired>,
    pub network: watch::Receiver<Option<Arc<Network>>>,
    pub permits: Semaphore,
}

impl Worker {
    pub async fn perform(&self, action: Action, desired: &Desired) -> Outcome {
        match action {
            Action::Report { task_id, .. } => Outcome::Look(task_id),
            Action::Create { task_id } => self.create(&task_id, desired).await,
            Action::Start { container_id, .. } => self.start(container_id).await,
            Action::AwaitListening { task_id, pid } => self.await_listening(&task_id, pid).await,
            Action::Drain { task_id, pid, left } => self.drain(&task_id, pid, left).await,
            Action::Stop {
                task_id,
                container_id,
            } => self.stop(&task_id, container_id, desired).await,
            Action::Remove {
                task_id,
                container_id,
            } => self.remove(&task_id, container_id).await,
        }
    }

    async fn create(&self, task_id: &str, desired: &Desired) -> Outcome {
        let Some(task) = desired.tasks().get(task_id).copied().cloned() else {
            return Outcome::Again {
                reason: "the task is gone".into(),
            };
        };
        if let Err(outcome) = self.fetch_image(&task).await {
            return outcome;
        }
        // A slow registry must not hold up tasks whose image is here.
        let Ok(_permit) = self.permits.acquire().await else {
            return Outcome::Again {
                reason: "shutting down".into(),
            };
        };
        let place = match self.place(&task, desired).await {
            Ok(place) => place,
            Err(outcome) => return outcome,
        };
        let creation = match creation(&task, &place) {
            Ok(creation) => creation,
            Err(error) => return rejected(error.to_string()),
        };
        match self.engine.create(creation).await {
            Ok(id) => Outcome::Look(id),
            Err(error) if error.status() == Some(409) => self.taken_name(&task, desired, error).await,
            Err(error) => refused(error, rejected),
        }
    }

    /// A pull that fails is only told to the log: the create then names the missing image. A pull for a task that is no
    /// longer wanted is given up.
    async fn fetch_image(&self, task: &TaskItem) -> Result<(), Outcome> {
        let spec = &task.spec.container;
        let present = self
            .engine
            .has_image(&spec.image)
            .await
            .map_err(|e| refused(e, rejected))?;
        if present {
            return Ok(());
        }
        tracing::info!(image = %spec.image, "pull");
        let pulled = tokio::select! {
            pulled = self.engine.pull(&spec.image, spec.registry_auth.as_deref()) => pulled,
            () = self.unwanted(&task.id) => return Err(Outcome::Look(task.name(&self.node_id()))),
        };
        if let Err(error) = pulled {
            tracing::warn!(error = %chain(&error), "pull");
        }
        Ok(())
    }

    fn node_id(&self) -> String {
        self.desired.borrow().node_id.clone()
    }

    /// Until the task is to stop, or gone.
    async fn unwanted(&self, task_id: &str) {
        let leaving = |task: Option<&&TaskItem>| task.is_none_or(|t| t.is_leaving());
        let mut desired = self.desired.clone();
        if desired
            .wait_for(|d| leaving(d.tasks().get(task_id)))
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// The container of an earlier, interrupted create is ours already.
    async fn taken_name(&self, task: &TaskItem, desired: &Desired, error: EngineError) -> Outcome {
        match self
            .engine
            .container(&task.name(&desired.node_id), &desired.node_id)
            .await
        {
            Ok(Some(container)) if container.task_id == task.id => Outcome::Look(container.id),
            Ok(_) => rejected(error.to_string()),
            Err(second) => Outcome::Again {
                reason: chain(&second),
            },
        }
    }

    async fn place(&self, task: &TaskItem, desired: &Desired) -> Result<Place, Outcome> {
        let platform = self
            .engine
            .info()
            .await
            .map_err(|e| again(&e))?
            .description
            .platform
            .unwrap_or_default();
        let mut place = Place {
            node_id: desired.node_id.clone(),
            os: platform.os,
            architecture: platform.architecture,
            api_socket: self.api_socket.clone(),
            ..Place::default()
        };
        if task.networks.is_empty() {
            let local = self
                .engine
                .ensure_local_network()
                .await
                .map_err(|e| refused(e, rejected))?;
            place.networks.push((local, None));
            return Ok(place);
        }
        let Some(network) = self.network.borrow().clone() else {
            return Err(Outcome::Again {
                reason: "the network of this node is not up yet".into(),
            });
        };
        follow_tables(&network, desired.index).await;
        for attachment in &task.networks {
            let Some(item) = desired.network(&attachment.network_id) else {
                return Err(rejected(format!("network {} not found", attachment.network_id)));
            };
            let twin = network.ensure_twin(item).await;
            let engine_id = match twin {
                Ok(id) => id,
                Err(error) if error.will_pass() => {
                    return Err(Outcome::Again {
                        reason: chain(&error),
                    });
                }
                Err(error) => return Err(self.no_twin(chain(&error)).await),
            };
            place.networks.push((engine_id, Some(attachment.clone())));
        }
        let file = write_resolv_conf(&self.state_dir, task, &network).await;
        place.resolv_conf = Some(file.map_err(|e| Outcome::Again {
            reason: format!("write resolv.conf: {e}"),
        })?);
        Ok(place)
    }

    /// Whether the Engine is away (again later) or refuses the network (the task's error).
    async fn no_twin(&self, text: String) -> Outcome {
        match self.engine.negotiate().await {
            Ok(()) => rejected(text),
            Err(error) => again(&error),
        }
    }

    async fn start(&self, container_id: String) -> Outcome {
        let Ok(_permit) = self.permits.acquire().await else {
            return Outcome::Again {
                reason: "shutting down".into(),
            };
        };
        match self.engine.start(&container_id).await {
            Ok(()) => Outcome::Look(container_id),
            Err(error) if error.status() == Some(404) => Outcome::Look(container_id),
            Err(error) => refused(error, |text| Outcome::Ended {
                state: TaskState::Failed,
                message: "starting",
                err: format!("starting container failed: {text}"),
            }),
        }
    }

    async fn await_listening(&self, task_id: &str, pid: i64) -> Outcome {
        let task = self.desired.borrow().tasks().get(task_id).copied().cloned();
        let published = task.iter().flat_map(|t| &t.ports);
        let ports: Vec<u16> = published
            .filter(|p| p.protocol() == Protocol::Tcp)
            .filter_map(|p| u16::try_from(p.target_port).ok())
            .collect();
        let listens = async {
            let mut tick = tokio::time::interval(LISTEN_TICK);
            loop {
                tick.tick().await;
                // Without its process there is nothing to wait for: look at what became of it.
                let Ok(sockets) = sockets::of_process(pid).await else {
                    return;
                };
                let all = ports.iter().all(|p| sockets.listening.contains(p));
                if all && !sockets.listening.is_empty() {
                    return;
                }
            }
        };
        let deadline = Duration::from_millis(LISTEN_DEADLINE_MS);
        tokio::select! {
            () = listens => {}
            () = tokio::time::sleep(deadline) => tracing::info!(task = %task_id, "does not listen yet"),
            () = self.unwanted(task_id) => {}
        }
        Outcome::Listens
    }

    /// The container's own sockets show every connection to it, whichever node and whichever way it came from: through a
    /// published port, a VIP or the task's own address. The flow tables would not: a VIP's flow is known to the client's node
    /// alone. The first look waits a tick for what was under way when the last node took the task out of its tables.
    async fn drain(&self, task_id: &str, pid: i64, left: Millis) -> Outcome {
        let is_dropped = || {
            let desired = self.desired.borrow();
            desired.tasks().get(task_id).is_none_or(|t| t.drain == 0)
        };
        let drained = async {
            loop {
                tokio::time::sleep(DRAIN_TICK).await;
                match sockets::of_process(pid).await {
                    Ok(sockets) if sockets.served > 0 && !is_dropped() => {}
                    // Without its process nothing is left to wait for.
                    Ok(_) | Err(_) => return,
                }
            }
        };
        if tokio::time::timeout(Duration::from_millis(left), drained)
            .await
            .is_err()
        {
            tracing::info!(task = %task_id, "stops with connections left");
        }
        Outcome::Drained
    }

    async fn stop(&self, task_id: &str, container_id: String, desired: &Desired) -> Outcome {
        let grace = desired
            .tasks()
            .get(task_id)
            .and_then(|t| t.spec.container.stop_grace_period);
        let grace = grace
            .and_then(|n| u64::try_from(n).ok())
            .map_or(DEFAULT_GRACE, Duration::from_nanos);
        match self.engine.stop(&container_id, grace).await {
            Ok(()) => Outcome::Look(container_id),
            Err(error) => Outcome::Again {
                reason: chain(&error),
            },
        }
    }

    async fn remove(&self, task_id: &str, container_id: String) -> Outcome {
        if let Err(error) = self.engine.remove(&container_id).await {
            return Outcome::Again {
                reason: chain(&error),
            };
        }
        match tokio::fs::remove_dir_all(task_dir(&self.state_dir, task_id)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(task = %task_id, %error, "remove the task's directory");
            }
            _ => {}
        }
        Outcome::Look(container_id)
    }
}

fn rejected(err: String) -> Outcome {
    Outcome::Ended {
        state: TaskState::Rejected,
        message: "preparing",
        err,
    }
}

fn again(error: &EngineError) -> Outcome {
    Outcome::Again { reason: chain(error) }
}

/// The Engine's refusal ends the task; its silence does not.
fn refused(error: EngineError, end: impl Fn(String) -> Outcome) -> Outcome {
    match error {
        EngineError::Refused { message, .. } => end(message),
        error => again(&error),
    }
}

/// Waits until the driver and the tables know the task.
async fn follow_tables(network: &Network, index: u64) {
    let mut applied = network.applied();
    let followed = applied.wait_for(|&at| at >= index);
    if tokio::time::timeout(TABLES_DEADLINE, followed).await.is_err() {
        tracing::warn!(index, "the data plane has not followed yet");
    }
}

/// Directory of what the agent makes for a task.
pub fn task_dir(state_dir: &Path, task_id: &str) -> PathBuf {
    state_dir.join("tasks").join(task_id)
}

async fn write_resolv_conf(state_dir: &Path, task: &TaskItem, network: &Network) -> std::io::Result<PathBuf> {
    let host = match tokio::fs::read_to_string("/etc/resolv.conf").await {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let text = resolv_conf(
        network.resolver(),
        &search_of(&host),
        task.spec.container.dns.as_ref(),
    );
    let directory = task_dir(state_dir, &task.id);
    tokio::fs::create_dir_all(&directory).await?;
    let file = directory.join("resolv.conf");
    tokio::fs::write(&file, text).await?;
    Ok(file)
}
