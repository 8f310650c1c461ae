//! This member of the Raft group: the way into the log, whoever leads.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use openraft::error::{CheckIsLeaderError, ClientWriteError, RaftError};
use openraft::{Config, ConfigError, SnapshotPolicy};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Code;

use super::elect::Hearing;
use super::log::{LogError, LogStore};
use super::machine::{Machine, MachineError};
use super::network::{Network, Peers};
use super::seal::{SealError, Sealer};
use super::types::*;
use crate::ca::UnlockKey;
use crate::core::state::ClusterState;
use crate::manager::{ControlError, Leader, LogError as NodeLogError, Propose};
use crate::model::*;
use crate::rpc::channel::within;
use crate::rpc::inbox::Inbox;
use crate::rpc::wire::{HealthRequest, LogOrder, OrderLog, ProposeRequest, ReadIndexRequest};

/// How long a write may take, the wait for a new leader included.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller waits for a leader before it is told that there is none: somewhat more than an election takes.
const LEADER_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(50);
/// A member that did not answer the leader for that long is unreachable.
const REACHABLE: Duration = Duration::from_secs(3);

/// Raft's clock.
#[derive(Clone, Debug)]
pub struct Timing {
    pub heartbeat: Duration,
    /// A leader is heard if it spoke not longer ago than this; voters refuse others for as long.
    pub lease: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    /// Entries between snapshots, unless the swarm's spec says another number.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot for slow followers.
    pub keep_entries: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat: Duration::from_millis(250),
            lease: Duration::from_millis(1000),
            election_min: Duration::from_millis(1000),
            election_max: Duration::from_millis(2000),
            snapshot_every: 10_000,
            keep_entries: 500,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("configure Raft")]
    Config(#[source] Box<ConfigError>),
    #[error("the Raft core does not run")]
    Stopped(#[source] Box<openraft::error::Fatal<u64>>),
    #[error("found the Raft group")]
    Found(#[source] Box<RaftError<u64, openraft::error::InitializeError<u64, Member>>>),
    #[error("the task that opens the Raft log failed")]
    Task(#[source] tokio::task::JoinError),
}

/// File of the data keys, in a member's directory.
pub const KEYS: &str = "raft.key";

/// How a member's store is opened.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// The log has to be there already.
    pub must_exist: bool,
    /// Opens the data keys where managers are locked.
    pub unlock: Option<UnlockKey>,
    /// `host:port`: this member goes on without the others (`--force-new-cluster`).
    pub alone_at: Option<String>,
}

/// A running member.
pub struct Group {
    raft: Raft,
    raft_id: u64,
    node_id: String,
    timing: Timing,
    state: watch::Receiver<Arc<ClusterState>>,
    leader: watch::Sender<Option<Leader>>,
    hearing: Hearing,
    peers: Arc<Peers>,
    /// Members in the leader's reach, as it told this follower.
    told_reachable: Mutex<BTreeSet<u64>>,
    /// Logs that nodes were asked to send here.
    inbox: Arc<Inbox>,
}

impl Group {
    /// Opens the store in `directory` and starts the Raft core.
    pub async fn open(
        directory: &Path,
        cluster_id: &str,
        node_id: &str,
        raft_id: u64,
        peers: Arc<Peers>,
        timing: Timing,
        store: Store,
    ) -> Result<Arc<Group>, GroupError> {
        let (directory, cluster_id, own) = (
            directory.to_path_buf(),
            cluster_id.to_string(),
            node_id.to_string(),
        );
        let opening = move || -> Result<(LogStore, Machine), GroupError> {
            let unlock = store.unlock.as_ref();
            let sealer = Arc::new(Sealer::open(&directory.join(KEYS), &cluster_id, &own, unlock)?);
            let path = directory.join("raft.redb");
            let log = match &store.alone_at {
                Some(_) => LogStore::open_released(&path, &sealer)?,
                None => LogStore::open(&path, sealer.clone(), store.must_exist)?,
            };
            if let Some(address) = store.alone_at {
                let member = Member {
                    node_id: own,
                    address,
                };
                log.go_on_alone(raft_id, member)?;
            }
            let machine = Machine::open(&directory.join("raft.snapshot"), sealer)?;
            Ok((log, machine))
        };
        let (log, machine) = tokio::task::spawn_blocking(opening)
            .await
            .map_err(GroupError::Task)??;
        let state = machine.subscribe();
        let config = Arc::new(config(&timing).map_err(GroupError::Config)?);
        let raft = Raft::new(raft_id, config, Network::new(peers.clone()), log, machine)
            .await
            .map_err(|error| GroupError::Stopped(Box::new(error)))?;
        Ok(Arc::new(Group {
            raft,
            raft_id,
            node_id: node_id.to_string(),
            timing,
            state,
            leader: watch::channel(None).0,
            hearing: Hearing::default(),
            peers,
            told_reachable: Mutex::new(BTreeSet::new()),
            inbox: Arc::default(),
        }))
    }

    /// Makes a new group of this member alone.
    pub async fn found(&self, address: &str) -> Result<(), GroupError> {
        let member = Member {
            node_id: self.node_id.clone(),
            address: address.to_string(),
        };
        let members = std::collections::BTreeMap::from([(self.raft_id, member)]);
        self.raft
            .initialize(members)
            .await
            .map_err(|error| GroupError::Found(Box::new(error)))
    }

    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    pub fn raft_id(&self) -> u64 {
        self.raft_id
    }

    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    pub fn hearing(&self) -> &Hearing {
        &self.hearing
    }

    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    pub fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.clone()
    }

    pub fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.subscribe()
    }

    /// Whether this member leads and a quorum answered it within the lease.
    pub fn leads(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.running_state.is_ok()
            && metrics.state.is_leader()
            && metrics.current_leader == Some(self.raft_id)
            && metrics
                .millis_since_quorum_ack
                .is_some_and(|millis| u128::from(millis) <= self.timing.lease.as_millis())
    }

    /// The answer to "do you hear a leader?".
    pub fn hears_leader(&self) -> bool {
        self.leads() || self.hearing.within(self.timing.lease)
    }

    pub fn last_log_id(&self) -> Option<LogId> {
        self.raft.data_metrics().borrow().last_log
    }

    /// The members as this one knows them.
    pub fn membership(&self) -> Membership {
        self.raft
            .metrics()
            .borrow()
            .membership_config
            .membership()
            .clone()
    }

    /// Raft ids that answer this leader; itself included.
    pub fn answering(&self) -> BTreeSet<u64> {
        self.peers
            .answering(REACHABLE)
            .into_iter()
            .chain([self.raft_id])
            .collect()
    }

    fn current_leader(&self) -> Option<Leader> {
        if !self.hears_leader() {
            return None;
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let raft_id = metrics.current_leader?;
        let member = metrics.membership_config.membership().get_node(&raft_id)?;
        Some(Leader {
            raft_id,
            node_id: member.node_id.clone(),
            address: member.address.clone(),
        })
    }

    /// Keeps [`Group::leader`] true: at every change of the metrics, and as time passes without one.
    pub async fn watch_leader(self: Arc<Self>) {
        let mut metrics = self.raft.metrics();
        loop {
            let now = self.current_leader();
            self.leader.send_if_modified(|leader| {
                let changed = *leader != now;
                *leader = now;
                changed
            });
            if let Ok(Err(_)) = tokio::time::timeout(self.timing.heartbeat, metrics.changed()).await {
                return;
            }
        }
    }

    /// Asks the leader now and then which members it reaches, while this one follows.
    pub async fn watch_reachable(self: Arc<Self>) {
        let mut rest = tokio::time::interval(REACHABLE / 2);
        loop {
            rest.tick().await;
            if self.leads() {
                continue;
            }
            let reachable = self.ask_reachable().await.unwrap_or_default();
            *self.told() = reachable;
        }
    }

    async fn ask_reachable(&self) -> Option<BTreeSet<u64>> {
        let leader = self.leader.borrow().clone()?;
        let mut client = self.peers.control(&member_of(&leader)).ok()?;
        let call = client.health(within(HealthRequest {}, REACHABLE));
        let reply = tokio::time::timeout(REACHABLE, call)
            .await
            .ok()?
            .ok()?
            .into_inner();
        reply.leads.then(|| reply.reachable.into_iter().collect())
    }

    fn told(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.told_reachable
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until this member has applied an index.
    pub async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<(), ControlError> {
        let mut state = self.state.clone();
        let reached = state.wait_for(|state| state.index >= index);
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ControlError::Stopped),
            Err(_) => Err(unknown(deadline)),
        }
    }

    /// Commits an encoded command if this member leads; `None` if it does not.
    pub async fn write_here(&self, command: Vec<u8>) -> Result<Option<Applied>, ControlError> {
        match self.raft.client_write(Proposal(command)).await {
            Ok(response) => match response.data.applied() {
                Ok(applied) => Ok(Some(applied)),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "apply answered what does not decode"
                    );
                    Err(ControlError::Timeout(0))
                }
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Ok(None),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_))) => Ok(None),
            Err(RaftError::Fatal(_)) => Err(ControlError::Stopped),
        }
    }

    /// Whether no other member can lead now: a quorum heard this leader so lately that it refuses all others still
    /// ([`Timing::lease`]), and what earlier leaders committed is applied here. A quarter of the lease is left for clocks
    /// that run apart.
    fn holds_lease(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let term = metrics.current_term;
        let applied = metrics.last_applied.map(|id| id.leader_id.term);
        if !metrics.state.is_leader() || applied != Some(term) {
            return false;
        }
        let mut hearers = self.peers.accepting(term, self.timing.lease * 3 / 4);
        hearers.push(self.raft_id);
        let configs = metrics.membership_config.membership().get_joint_config();
        configs
            .iter()
            .all(|members| hearers.iter().filter(|id| members.contains(id)).count() > members.len() / 2)
    }

    /// The index that a read has to wait for, confirmed by a quorum, if this member leads; `None` if it does not.
    pub async fn read_index_here(&self) -> Result<Option<u64>, ControlError> {
        if self.holds_lease() {
            // Whatever was answered to anybody is applied here.
            return Ok(Some(self.state.borrow().index));
        }
        match self.raft.get_read_log_id().await {
            Ok((read, _)) => Ok(Some(read.map_or(0, |id| id.index))),
            Err(RaftError::APIError(
                CheckIsLeaderError::ForwardToLeader(_) | CheckIsLeaderError::QuorumNotEnough(_),
            )) => Ok(None),
            Err(RaftError::Fatal(_)) => Err(ControlError::Stopped),
        }
    }

    async fn write_at(
        &self,
        leader: &Leader,
        command: Vec<u8>,
        deadline: Instant,
    ) -> Result<Option<Applied>, ControlError> {
        if leader.raft_id == self.raft_id {
            return tokio::time::timeout_at(deadline, self.write_here(command))
                .await
                .unwrap_or(Err(unknown(deadline)));
        }
        let Ok(mut client) = self.peers.control(&member_of(leader)) else {
            return Ok(None);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let call = client.propose(within(ProposeRequest { command }, left));
        match tokio::time::timeout_at(deadline, call).await {
            Ok(Ok(reply)) => Ok(reply.into_inner().applied),
            // Unavailable is also what a connection that broke in the middle gives: the outcome is then unknown, and a
            // command with the id of an object made by it is refused the second time. Only a leader that could not be
            // reached at all is tried again.
            Ok(Err(status)) if never_sent(&status) => Ok(None),
            Ok(Err(_)) | Err(_) => Err(unknown(deadline)),
        }
    }

    async fn index_at(&self, leader: &Leader, deadline: Instant) -> Result<Option<u64>, ControlError> {
        if leader.raft_id == self.raft_id {
            return tokio::time::timeout_at(deadline, self.read_index_here())
                .await
                .unwrap_or(Err(unknown(deadline)));
        }
        let Ok(mut client) = self.peers.control(&member_of(leader)) else {
            return Ok(None);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let call = client.read_index(within(ReadIndexRequest {}, left));
        match tokio::time::timeout_at(deadline, call).await {
            Ok(Ok(reply)) => Ok(reply.into_inner().index),
            // A read may be asked for again.
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    /// Has the leader give a node an order; an error if the node does not hear it.
    async fn order_log(&self, node_id: &str, order: LogOrder) -> Result<(), NodeLogError> {
        let start = Instant::now();
        loop {
            let leader = self
                .wait_leader(start)
                .await
                .map_err(|_| NodeLogError::NoLeader)?;
            let request = OrderLog {
                node_id: node_id.to_string(),
                order: order.clone(),
            };
            if let Ok(mut client) = self.peers.logs(&member_of(&leader)) {
                let call = client.order(within(request, LEADER_TIMEOUT));
                match tokio::time::timeout(LEADER_TIMEOUT, call)
                    .await
                    .map(|reply| reply.map(tonic::Response::into_inner))
                {
                    Ok(Ok(reply)) if reply.leads && reply.told => return Ok(()),
                    Ok(Ok(reply)) if reply.leads => {
                        return Err(NodeLogError::NodeAway(node_id.to_string()));
                    }
                    Ok(Ok(_)) | Ok(Err(_)) | Err(_) => {}
                }
            }
            if start.elapsed() > LEADER_TIMEOUT {
                return Err(NodeLogError::NoLeader);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Waits for a leader, up to [`LEADER_TIMEOUT`] after `since`.
    pub async fn wait_leader(&self, since: Instant) -> Result<Leader, ControlError> {
        let mut leader = self.leader.subscribe();
        let found = leader.wait_for(Option::is_some);
        match tokio::time::timeout_at(since + LEADER_TIMEOUT, found).await {
            Ok(Ok(leader)) => leader.clone().ok_or(ControlError::NoLeader),
            Ok(Err(_)) => Err(ControlError::Stopped),
            Err(_) => Err(ControlError::NoLeader),
        }
    }
}

fn member_of(leader: &Leader) -> Member {
    Member {
        node_id: leader.node_id.clone(),
        address: leader.address.clone(),
    }
}

/// The outcome is not known; says how long the caller has waited.
fn unknown(deadline: Instant) -> ControlError {
    let left = deadline.saturating_duration_since(Instant::now());
    ControlError::Timeout(WRITE_TIMEOUT.saturating_sub(left).as_millis() as u64)
}

/// Whether a call failed before a byte of it left: the dial failed.
fn never_sent(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    status.code() == Code::PermissionDenied
}

fn config(timing: &Timing) -> Result<Config, Box<ConfigError>> {
    let millis = |duration: Duration| duration.as_millis() as u64;
    Config {
        cluster_name: "swarm".to_string(),
        heartbeat_interval: millis(timing.heartbeat),
        // openraft's lease is its greatest election timeout; its own elections are off.
        election_timeout_min: millis(timing.lease) - 1,
        election_timeout_max: millis(timing.lease),
        max_payload_entries: 256,
        // See [`super::snapshots`]: the interval is the swarm's and may change.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: timing.keep_entries,
        enable_elect: false,
        ..Config::default()
    }
    .validate()
    .map_err(Box::new)
}

/// Unix time in nanoseconds.
pub fn now() -> Timestamp {
    jiff::Timestamp::now().as_nanosecond() as Timestamp
}

#[async_trait]
impl Propose for Group {
    async fn propose(&self, change: Change) -> Result<Applied, ControlError> {
        let command = Command {
            now: now(),
            change: Some(change),
        };
        let bytes = command.encode_to_vec();
        let start = Instant::now();
        let deadline = start + WRITE_TIMEOUT;
        loop {
            let leader = self.wait_leader(start).await?;
            if let Some(applied) = self.write_at(&leader, bytes.clone(), deadline).await? {
                self.wait_applied(applied.index, deadline).await?;
                return match applied.refused {
                    Some(refused) => Err(ControlError::Refused(refused)),
                    None => Ok(applied),
                };
            }
            if start.elapsed() > LEADER_TIMEOUT {
                return Err(ControlError::NoLeader);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn barrier(&self) -> Result<(), ControlError> {
        let start = Instant::now();
        let deadline = start + WRITE_TIMEOUT;
        loop {
            let leader = self.wait_leader(start).await?;
            if let Some(index) = self.index_at(&leader, deadline).await? {
                return self.wait_applied(index, deadline).await;
            }
            if start.elapsed() > LEADER_TIMEOUT {
                return Err(ControlError::NoLeader);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn node_log(
        &self,
        node_id: &str,
        container_id: &str,
        query: &str,
    ) -> Result<mpsc::Receiver<Result<Vec<u8>, NodeLogError>>, NodeLogError> {
        let own = self.state.borrow().nodes.get(&self.node_id).cloned();
        let place = self.inbox.wait_for(node_id);
        let order = LogOrder {
            id: place.id().to_string(),
            container_id: container_id.to_string(),
            query: query.to_string(),
            address: own.map(|node| node.manager_address.clone()).unwrap_or_default(),
            manager_id: self.node_id.clone(),
        };
        self.order_log(node_id, order).await?;
        place.begun().await
    }

    fn reachable(&self, raft_id: u64) -> bool {
        if raft_id == self.raft_id {
            return true;
        }
        if self.leads() {
            return self.answering().contains(&raft_id);
        }
        self.told().contains(&raft_id)
    }
}
