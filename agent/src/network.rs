//! The node's network: Docker driver, links, firewall, data plane tables and DNS, kept equal to the items.
//!
//! [`serve_driver`] comes first, before Docker and before a swarm: Docker waits for the socket when it starts.
//! [`start`] is called once this node is in a swarm (from the ledger after a boot). Level-triggered: whatever changes
//! (items, liveness, local endpoints, links), everything is computed anew and compared with what stands.

//!
//! - [`core`]: pure: what Docker may have, which tables follow from the items, the text of the firewall;
//! - [`driver`]: the Docker network driver and its ledger;
//! - [`flows`]: the flow tables, kept clean and counted;
//! - [`keeper`]: the task that owns the data plane and makes each pass;
//! - [`lookout`]: the task that looks for what nobody tells;
//! - [`io`]: rtnetlink, nft, iptables, sysctls, guard sockets, the driver's socket, the Engine.

pub mod core;
pub mod driver;
mod flows;
pub mod io;
mod keeper;
mod lookout;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skep_control::model::{Items, NetworkItem};
use skep_ebpf_loader::{Datapath, DatapathError, DropReason, FlowTables, FlowUsage, Hook};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, block_in_place};
use tokio_util::task::AbortOnDropHandle;

pub use driver::{Driver, DriverError};

use crate::ingress::Grounds;
use crate::ingress::io::caretaker::{self, Caretaker};
use crate::ingress::io::foreign::{self, Finding};
use crate::ingress::io::interfaces::InterfaceError;
use crate::ingress::io::raw::{RawError, RawSocket};
use crate::ingress::io::router;
use crate::ingress::io::sink::NodeSink;
use crate::network::core::links::overlay_mtu;
use crate::network::core::tables;
use crate::network::driver::Plane;
use crate::network::io::engine::{DRIVER, Engine, EngineError};
use crate::network::io::guard::Guards;
use crate::network::io::iptables::IptablesError;
use crate::network::io::links::{LinkError, Links};
use crate::network::io::nft::NftError;
use crate::network::io::resolv_conf::{self, ResolvConfError};
use crate::network::io::sysctl::SysctlError;
use crate::network::keeper::{Keeper, Question, Sinks, Sources, datapath_config};
use crate::probe::{self, Held, Probe, ProbeConfig, ProbeError};

/// Where containers find the node's DNS: the same link-local address everywhere.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 53);
/// Stands for "a published port of this node" in the node's own traffic.
pub const MESH_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// VNI of mesh packets on their first hop: below 4096, where no network of the swarm is.
pub const MESH_VNI: u32 = 1;
/// VNI of mesh packets that were forwarded once already.
pub const MESH_VNI_FORWARDED: u32 = 2;
const DNS_PORT: u16 = 53;
/// Requests that may wait for the keeper; more wait for a place, with their own deadlines.
const QUEUE: usize = 64;

/// What stays the same while the node is in its swarm.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Directory on a bpffs, this node's own.
    pub pin_dir: PathBuf,
    pub docker_socket: PathBuf,
    /// Address of this node that VXLAN packets come from.
    pub data_path_address: IpAddr,
    pub self_index: u32,
    /// UDP port of VXLAN: 4789 unless the swarm says otherwise.
    pub data_path_port: u16,
    /// How programs get onto interfaces.
    pub hook: Hook,
    /// Bytes of memory of this node: the flow tables take a small part.
    pub memory: u64,
    /// Authenticates the probes between nodes.
    pub probe_key: [u8; 32],
    /// Command that is told of addresses this node takes over.
    pub ingress_hook: Option<PathBuf>,
}

/// What the node is asked to be.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    pub items: Arc<Items>,
    /// Raft index of `items`.
    pub index: u64,
    /// Hashes of this node's tasks that have ended, whatever the items say.
    pub ended: Arc<BTreeSet<u64>>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    #[error("the network of this node has stopped")]
    Stopped,
    #[error("no interface of this node has the data path address {0}")]
    NoSuchAddress(IpAddr),
    #[error("the data path address {0} is not IPv4, which is all that is supported yet")]
    NotIpv4(IpAddr),
    #[error("the data plane is not attached to interface {name}: {reason}")]
    NotAttached { name: String, reason: String },
    #[error("leaving was incomplete: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Incomplete(Vec<NetworkError>),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Dns(#[from] skep_dns::ServerError),
    #[error(transparent)]
    ResolvConf(#[from] ResolvConfError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Raw(#[from] RawError),
    #[error(transparent)]
    Interface(#[from] InterfaceError),
}

impl NetworkError {
    /// Whether waiting helps, without anybody changing anything.
    pub fn will_pass(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Leaving { .. }))
    }
}

/// Serves the Docker network driver on `<plugin_dir>/skep.sock` from what `state_dir` holds.
///
/// # Errors
/// When the socket cannot be made or the driver's ledger cannot be read.
pub async fn serve_driver(state_dir: &Path, plugin_dir: &Path) -> Result<Driver, NetworkError> {
    Ok(Driver::serve(state_dir, plugin_dir).await?)
}

/// A running network.
#[derive(Debug)]
pub struct Network {
    driver: Driver,
    docker_socket: PathBuf,
    desired: watch::Receiver<Desired>,
    applied: watch::Receiver<u64>,
    problems: watch::Receiver<Vec<String>>,
    questions: mpsc::Sender<Question>,
    flows: Arc<FlowTables>,
    dns: Mutex<Option<skep_dns::Server>>,
    probe: Probe,
    caretaker: Mutex<Option<Caretaker>>,
    grounds: watch::Receiver<Arc<Grounds>>,
    finding: watch::Receiver<Finding>,
    keeper: JoinHandle<()>,
    /// They end with the network.
    helpers: Mutex<Vec<AbortOnDropHandle<()>>>,
    /// One twin is made at a time: the look for clashes and the making belong together.
    making: Mutex<()>,
}

/// Brings the data plane up and keeps it equal to `desired`. Needs a multi-threaded runtime.
///
/// # Errors
/// When this machine cannot carry it: no eBPF, another VXLAN device on the port, no such address.
pub async fn start(
    config: NetworkConfig,
    driver: Driver,
    desired: watch::Receiver<Desired>,
) -> Result<Network, NetworkError> {
    let address = config.data_path_address;
    let IpAddr::V4(node_address) = address else {
        return Err(NetworkError::NotIpv4(address));
    };
    let snapshot = driver.links().snapshot().await?;
    let underlay = snapshot
        .by_address(address)
        .ok_or(NetworkError::NoSuchAddress(address))?;
    let mtu = overlay_mtu(underlay.mtu, address);
    let links = driver
        .links()
        .ensure_node_links(config.data_path_port, mtu, MESH_ADDRESS, node_address, RESOLVER)
        .await?;
    let datapath = block_in_place(|| Datapath::open_at(datapath_config(&config, links), config.hook))?;
    let flows = Arc::new(datapath.flow_tables()?);

    let (dns_table, dns_tables) = watch::channel(Arc::default());
    let upstreams = resolv_conf::upstreams()?;
    let dns = skep_dns::Server::start((RESOLVER, DNS_PORT).into(), dns_tables, upstreams)?;
    let (watched_sender, watched) = watch::channel(Arc::default());
    let probe_config = ProbeConfig {
        bind: SocketAddr::new(address, probe::DEFAULT_PORT),
        self_index: config.self_index,
        key: config.probe_key,
    };
    let (grounds_sender, grounds) = watch::channel(Arc::default());
    let (faults_sender, faults) = mpsc::channel(QUEUE);
    let (answers_sender, routers) = watch::channel(Arc::default());
    let sink = NodeSink {
        liveness: datapath.liveness()?,
        socket: RawSocket::sender()?,
        grounds: grounds.clone(),
        routers,
        faults: faults_sender,
        announced: BTreeMap::new(),
    };
    let probe = probe::start(probe_config, watched, Box::new(sink))?;
    let (finding_sender, finding) = watch::channel(Finding::default());
    let foreign = foreign::Setup {
        self_index: config.self_index,
        key: config.probe_key,
        desired: desired.clone(),
        alive: probe.alive.clone(),
        rtt: probe.rtt.clone(),
        finding: finding_sender,
    };
    let foreign_task = AbortOnDropHandle::new(tokio::spawn(foreign::run(foreign)));
    let router_task = AbortOnDropHandle::new(tokio::spawn(router::run(grounds.clone(), answers_sender)));
    let care = caretaker::Sources {
        desired: desired.clone(),
        grounds: grounds.clone(),
        held: probe.held.clone(),
        alive: probe.alive.clone(),
        rtt: probe.rtt.clone(),
        faults,
    };
    let hook = config.ingress_hook.clone();
    let caretaker = Caretaker::start(config.self_index, hook, care, datapath.liveness()?)?;

    let (applied_sender, applied) = watch::channel(0);
    let (problems_sender, problems) = watch::channel(Vec::new());
    let (mtu_sender, mtu) = watch::channel(mtu);
    let (apply, applies) = mpsc::channel(QUEUE);
    let (questions_sender, questions) = mpsc::channel(QUEUE);
    let (seen, lookout) = watch::channel(lookout::Seen::default());
    let lookout_task = AbortOnDropHandle::new(tokio::spawn(lookout::run(seen)));
    let sources = Sources {
        desired: desired.clone(),
        alive: probe.alive.clone(),
        withdrawn: probe.withdrawn.clone(),
        ingress_problems: caretaker.problems(),
        locals: driver.locals(),
        link_changes: Links::watch()?,
        lookout,
        applies,
        questions,
    };
    let sinks = Sinks {
        applied: applied_sender,
        problems: problems_sender,
        dns: dns_table,
        watched: watched_sender,
        grounds: grounds_sender,
        mtu: mtu_sender,
    };
    let docker_socket = config.docker_socket.clone();
    let keeper = Keeper {
        config,
        driver: driver.clone(),
        datapath,
        flows: flows.clone(),
        links,
        sources,
        sinks,
        guards: Guards::default(),
        firewall: String::new(),
    };
    let keeper = tokio::spawn(keeper.run());
    driver.set_plane(Some(Plane {
        desired: desired.clone(),
        apply,
        mtu,
    }));
    Ok(Network {
        driver,
        docker_socket,
        desired,
        applied,
        problems,
        questions: questions_sender,
        flows,
        dns: Mutex::new(Some(dns)),
        probe,
        caretaker: Mutex::new(Some(caretaker)),
        grounds,
        finding,
        keeper,
        helpers: Mutex::new(vec![lookout_task, router_task, foreign_task]),
        making: Mutex::new(()),
    })
}

impl Network {
    /// Raft index of the items that the kernel's tables, the firewall and DNS follow.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.clone()
    }

    /// Engine network id -> swarm network id of every twin network of this node.
    pub fn twins(&self) -> watch::Receiver<Arc<BTreeMap<String, String>>> {
        self.driver.twins()
    }

    /// What this node could not do, in words for its status message.
    pub fn problems(&self) -> watch::Receiver<Vec<String>> {
        self.problems.clone()
    }

    /// By node index: `false` while several peers miss the node.
    pub fn alive(&self) -> watch::Receiver<Arc<BTreeMap<u32, bool>>> {
        self.probe.alive.clone()
    }

    /// By index of the ingress address: who holds it.
    pub fn held(&self) -> watch::Receiver<Arc<BTreeMap<u32, Held>>> {
        self.probe.held.clone()
    }

    /// Whether packets with another node's source address arrive here.
    pub fn finding(&self) -> watch::Receiver<Finding> {
        self.finding.clone()
    }

    /// Where this node would carry ingress addresses.
    pub fn grounds(&self) -> Arc<Grounds> {
        self.grounds.borrow().clone()
    }

    /// Before a planned stop: other nodes take the addresses that this one holds, or `deadline` passes.
    pub async fn hand_over_all(&self, deadline: Duration) {
        self.probe.hand_over_all(deadline).await;
    }

    /// Makes the Engine's local twin of an overlay network exist; answers its Engine network id.
    ///
    /// # Errors
    /// Engine down, or another network of the node overlaps it (the text names that network); see
    /// [`NetworkError::will_pass`].
    pub async fn ensure_twin(&self, network: &NetworkItem) -> Result<String, NetworkError> {
        let _making = self.making.lock().await;
        let engine = Engine::connect(&self.docker_socket).await?;
        let known = self.driver.twins().borrow().clone();
        let items = self.desired.borrow().items.clone();
        let mut leaving = false;
        for twin in engine.twins().await? {
            if twin.network_id != network.network_id {
                // Its name and subnet are free in the swarm as soon as it is removed there.
                let removed = !tables::networks(&items).contains_key(twin.network_id.as_str());
                leaving |= removed && !engine.remove(&twin).await?;
                continue;
            }
            if known.contains_key(&twin.engine_id) {
                return Ok(twin.engine_id);
            }
            // Docker tells a network's options once, and the driver has lost them.
            engine.remove(&twin).await?;
        }
        match engine.create_twin(network).await {
            Err(EngineError::Name { driver, .. } | EngineError::Overlap { driver, .. })
                if leaving && driver == DRIVER =>
            {
                let network = network.name.clone();
                Err(EngineError::Leaving { network }.into())
            }
            made => Ok(made?),
        }
    }

    /// Removes twins whose network is no longer among the items and that no container uses.
    ///
    /// # Errors
    /// When the Engine does not answer.
    pub async fn remove_unused_twins(&self) -> Result<(), NetworkError> {
        let items = self.desired.borrow().items.clone();
        let networks = tables::networks(&items);
        let twins = self.driver.twins().borrow().clone();
        if twins
            .values()
            .all(|network_id| networks.contains_key(network_id.as_str()))
        {
            return Ok(());
        }
        self.remove_twins(|network_id| !networks.contains_key(network_id))
            .await
    }

    async fn remove_twins(&self, unused: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        let _making = self.making.lock().await;
        let engine = Engine::connect(&self.docker_socket).await?;
        for twin in engine.twins().await? {
            if unused(&twin.network_id) && !engine.remove(&twin).await? {
                tracing::debug!(
                    network = twin.name,
                    "a network without a use here still has containers"
                );
            }
        }
        Ok(())
    }

    /// Packets dropped so far, by reason.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub async fn drops(&self) -> Result<Vec<(DropReason, u64)>, NetworkError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Question::Drops(answer)).await?;
        answered.await.map_err(|_| NetworkError::Stopped)?
    }

    /// How full the flow tables are.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn flow_usage(&self) -> Result<FlowUsage, NetworkError> {
        flows::usage(&self.flows).await
    }

    async fn ask(&self, question: Question) -> Result<(), NetworkError> {
        self.questions
            .send(question)
            .await
            .map_err(|_| NetworkError::Stopped)
    }

    /// DNS server for containers on overlay networks.
    pub fn resolver(&self) -> Ipv4Addr {
        RESOLVER
    }

    /// Lets go. `remove`: the node leaves its swarm, everything of ours in kernel and Engine goes; otherwise all of it
    /// stays and goes on forwarding. Probes and DNS end either way.
    ///
    /// # Errors
    /// [`NetworkError::Stopped`] the second time; else all that could not be removed; the rest is.
    pub async fn stop(&self, remove: bool) -> Result<(), NetworkError> {
        let mut errors = Vec::new();
        if remove {
            errors.extend(self.remove_twins(|_| true).await.err());
        }
        // Before what they look after is removed.
        for helper in self.helpers.lock().await.drain(..) {
            helper.abort();
            if let Err(error) = helper.await
                && !error.is_cancelled()
            {
                tracing::error!(%error, "a task of the network");
            }
        }
        if let Some(caretaker) = self.caretaker.lock().await.take() {
            caretaker.stop(remove).await;
        }
        let (answer, answered) = oneshot::channel();
        self.ask(Question::Stop { remove, answer }).await?;
        errors.extend(answered.await.map_err(|_| NetworkError::Stopped)?);
        if let Some(dns) = self.dns.lock().await.take() {
            dns.stop().await;
        }
        // The keeper has answered, so it is at its end.
        self.keeper.abort();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(NetworkError::Incomplete(errors))
        }
    }
}
