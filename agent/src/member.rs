//! Everything that runs while this node is in a swarm.
//!
//! | task | reads | writes |
//! |---|---|---|
//! | session | its managers, `Statuses`, applied index, description | ledger, `Desired`, managers, `Link` |
//! | reconciler | `Desired`, network, Docker's events | `Statuses`, description |
//! | network bring-up | `Desired`, `Statuses` | network |
//! | attachments | `Desired`, Docker's events | (asks the managers) |
//! | role | `Desired`, identity, the manager's state | identity, the manager |

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use role::Running;
use skep_control::ca::{Identity, UnlockKey};
use skep_control::manager::Manager;
use skep_control::model::NodeDescription;
use skep_control::rpc::client::{Hello, NodeClient, SessionConfig};
use skep_control::run::RunningManager;
use skep_ebpf_loader::Hook;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::core::backoff::Backoff;
use crate::core::desired::Desired;
use crate::ingress::core::ended::ended;
use crate::io::docker::Engine;
use crate::io::ledger::Ledger;
use crate::logs::Logs;
use crate::network::{self, Driver, Network, NetworkConfig};
use crate::reconciler::{self, Statuses, chain};
use crate::session::{self, Link};

mod attachments;
mod role;

/// What an agent has, swarm or not.
#[derive(Clone, Debug)]
pub struct Common {
    pub state_dir: PathBuf,
    pub pin_dir: PathBuf,
    /// How programs get onto interfaces.
    pub hook: Hook,
    /// Bytes of memory of this host.
    pub memory: u64,
    /// Skep's API socket.
    pub socket: PathBuf,
    pub engine: Engine,
    pub driver: Driver,
    /// Command that is told of ingress addresses this node takes over.
    pub ingress_hook: Option<PathBuf>,
}

/// What a membership begins with.
pub struct Start {
    pub identity: Identity,
    /// `host:port`, as last known.
    pub managers: Vec<String>,
    /// Of a manager.
    pub running: Option<RunningManager>,
    /// What the stored keys are locked with.
    pub lock: Option<UnlockKey>,
    /// Routable address of this node, without port.
    pub address: String,
    pub data_path_address: String,
    pub description: Option<NodeDescription>,
    /// From the ledger, or empty.
    pub desired: Desired,
}

/// What others see of it; clones share it.
#[derive(Clone)]
pub struct View {
    pub node_id: String,
    pub cluster_id: String,
    pub address: String,
    /// Comes and goes with the node's role.
    manager: watch::Receiver<Option<Arc<Manager>>>,
    pub client: Arc<NodeClient>,
    pub managers: watch::Receiver<Vec<String>>,
    pub desired: watch::Receiver<Desired>,
    pub network: watch::Receiver<Option<Arc<Network>>>,
    pub statuses: watch::Receiver<Statuses>,
    pub link: watch::Receiver<Link>,
    /// Why the network is not up, if it is not.
    pub network_error: watch::Receiver<String>,
}

impl View {
    /// The manager of this node, while it is one.
    pub fn manager(&self) -> Option<Arc<Manager>> {
        self.manager.borrow().clone()
    }
}

/// A running membership.
pub struct Member {
    view: View,
    running: Running,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

/// The writing ends of what the tasks tell each other.
struct Channels {
    identity: watch::Sender<Identity>,
    manager: watch::Sender<Option<Arc<Manager>>>,
    managers: watch::Sender<Vec<String>>,
    desired: watch::Sender<Desired>,
    network: watch::Sender<Option<Arc<Network>>>,
    statuses: watch::Sender<Statuses>,
    description: watch::Sender<Option<NodeDescription>>,
    link: watch::Sender<Link>,
    network_error: watch::Sender<String>,
}

impl Member {
    pub fn start(common: &Common, start: Start) -> Member {
        let shutdown = CancellationToken::new();
        let mut desired = start.desired;
        desired.node_id.clone_from(&start.identity.node_id);
        let hello = Hello {
            description: start.description.clone(),
            address: start.address.clone(),
            data_path_address: start.data_path_address,
            message: String::new(),
        };
        let channels = Channels {
            identity: watch::Sender::new(start.identity.clone()),
            manager: watch::Sender::new(start.running.as_ref().map(|r| Arc::new(r.manager.clone()))),
            managers: watch::Sender::new(start.managers),
            desired: watch::Sender::new(desired),
            network: watch::Sender::new(None),
            statuses: watch::Sender::new(Statuses::default()),
            description: watch::Sender::new(start.description),
            link: watch::Sender::new(Link::default()),
            network_error: watch::Sender::new(String::new()),
        };
        let client = NodeClient::new(channels.identity.subscribe(), channels.managers.subscribe());
        let view = View {
            node_id: start.identity.node_id,
            cluster_id: start.identity.cluster_id,
            address: start.address,
            manager: channels.manager.subscribe(),
            client: Arc::new(client),
            managers: channels.managers.subscribe(),
            desired: channels.desired.subscribe(),
            network: channels.network.subscribe(),
            statuses: channels.statuses.subscribe(),
            link: channels.link.subscribe(),
            network_error: channels.network_error.subscribe(),
        };
        let running: Running = Arc::new(Mutex::new(start.running));
        let keys = (running.clone(), start.lock);
        let tasks = spawn(common, &view, channels, hello, keys, &shutdown);
        Member {
            view,
            running,
            shutdown,
            tasks,
        }
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// Ends the tasks, reconciler included; the network goes on.
    pub async fn quiesce(mut self) -> Member {
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the membership");
            }
        }
        self
    }

    /// Ends everything. Containers go on running. `remove`: kernel objects and local networks go too; otherwise they go
    /// on forwarding. Collects errors as texts and goes on.
    pub async fn stop(self, remove: bool) -> Vec<String> {
        let quiet = self.quiesce().await;
        let mut errors = Vec::new();
        let network = quiet.view.network.borrow().clone();
        if let Some(network) = network {
            errors.extend(network.stop(remove).await.err().map(|e| chain(&e)));
        }
        let running = quiet.running.lock().await.take();
        if let Some(running) = running {
            running.stop().await;
        }
        errors
    }
}

fn spawn(
    common: &Common,
    view: &View,
    channels: Channels,
    hello: Hello,
    (running, lock): (Running, Option<UnlockKey>),
    shutdown: &CancellationToken,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(reconciler::run(reconciler::Setup {
        engine: common.engine.clone(),
        state_dir: common.state_dir.clone(),
        api_socket: common.socket.to_string_lossy().into_owned(),
        desired: channels.desired.subscribe(),
        network: channels.network.subscribe(),
        statuses: channels.statuses,
        description: channels.description.clone(),
        shutdown: shutdown.clone(),
    }));
    tasks.spawn(session::run(session::Setup {
        client: SessionConfig {
            identity: channels.identity.subscribe(),
            managers: channels.managers.subscribe(),
            hello,
        },
        ledger: Ledger::new(&common.state_dir),
        statuses: view.statuses.clone(),
        network: channels.network.subscribe(),
        description: channels.description.subscribe(),
        desired: channels.desired,
        managers: channels.managers,
        link: channels.link,
        logs: Logs::new(
            common.engine.socket().to_path_buf(),
            view.client.clone(),
            shutdown.clone(),
        ),
        shutdown: shutdown.clone(),
    }));
    let attachments = attachments::run(common.engine.clone(), view.client.clone(), view.desired.clone());
    tasks.spawn(until(shutdown.clone(), attachments));
    let role = role::run(role::Setup {
        state_dir: common.state_dir.clone(),
        client: view.client.clone(),
        identity: channels.identity,
        desired: view.desired.clone(),
        managers: view.managers.clone(),
        manager: channels.manager,
        running,
        lock,
    });
    tasks.spawn(until(shutdown.clone(), role));
    let up = network_up(
        common.clone(),
        view.desired.clone(),
        view.statuses.clone(),
        channels.network,
        channels.network_error,
    );
    tasks.spawn(until(shutdown.clone(), up));
    tasks
}

async fn until(shutdown: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

/// Removes what an agent that could not start left of its network: kernel objects and local networks. Collects errors
/// as texts.
pub async fn remove_network(common: &Common, desired: &Desired) -> Vec<String> {
    let Some(config) = network_config(common, desired) else {
        return Vec::new();
    };
    let feed = watch::Sender::new(network::Desired::default());
    let removed = match network::start(config, common.driver.clone(), feed.subscribe()).await {
        Ok(up) => up.stop(true).await.map_err(|error| chain(&error)),
        Err(error) => Err(chain(&error)),
    };
    removed.err().into_iter().collect()
}

/// Starts the network as soon as the items say who this node is, and feeds it from then on.
async fn network_up(
    common: Common,
    mut desired: watch::Receiver<Desired>,
    mut statuses: watch::Receiver<Statuses>,
    network: watch::Sender<Option<Arc<Network>>>,
    error: watch::Sender<String>,
) {
    let feed = watch::Sender::new(network::Desired::default());
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    let mut started = false;
    loop {
        let now = desired.borrow_and_update().clone();
        let next = network::Desired {
            items: now.items.clone(),
            index: now.index,
            ended: Arc::new(ended(&now.items, &statuses.borrow_and_update())),
        };
        feed.send_if_modified(|fed| {
            // Most reports of tasks change nothing here.
            let is_new =
                fed.index != next.index || fed.ended != next.ended || !Arc::ptr_eq(&fed.items, &next.items);
            if is_new {
                *fed = next;
            }
            is_new
        });
        let mut pause = None;
        if !started && let Some(config) = network_config(&common, &now) {
            match network::start(config, common.driver.clone(), feed.subscribe()).await {
                Ok(up) => {
                    started = true;
                    error.send_replace(String::new());
                    network.send_replace(Some(Arc::new(up)));
                }
                Err(failure) => {
                    let text = chain(&failure);
                    tracing::error!(error = %text, "the network of this node does not come up");
                    error.send_replace(text);
                    pause = Some(backoff.next(rand::random()));
                }
            }
        }
        let waited = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = desired.changed() => if changed.is_err() {
                // The session ended: this task is cancelled with it.
                std::future::pending::<()>().await;
            },
            // Its writer ends with the whole membership.
            Ok(()) = statuses.changed() => {}
            () = waited => {}
        }
    }
}

/// What the network needs to know, once the items say it.
fn network_config(common: &Common, desired: &Desired) -> Option<NetworkConfig> {
    let swarm = desired.swarm()?;
    let data_path_address: IpAddr = desired.underlay_of(&swarm.self_node_id)?.parse().ok()?;
    Some(NetworkConfig {
        pin_dir: common.pin_dir.clone(),
        docker_socket: common.engine.socket().to_path_buf(),
        hook: common.hook,
        memory: common.memory,
        data_path_address,
        self_index: swarm.self_index,
        data_path_port: u16::try_from(swarm.data_path_port)
            .ok()
            .filter(|p| *p != 0)
            .unwrap_or(4789),
        probe_key: swarm.probe_key.as_slice().try_into().ok()?,
        ingress_hook: common.ingress_hook.clone(),
    })
}
