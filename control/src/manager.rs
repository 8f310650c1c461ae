//! What the Docker API and the agent see of a running manager: a way to write, the state, and who leads.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use crate::core::state::ClusterState;
use crate::model::id::RaftId;
use crate::model::*;

/// Who leads, as this manager sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub raft_id: u64,
    pub node_id: String,
    /// `host:port`.
    pub address: String,
}

/// Why a proposal or read was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Apply refused it; nothing changed.
    #[error("{}", .0.message)]
    Refused(Refused),
    #[error(
        "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online."
    )]
    NoLeader,
    /// The outcome is unknown: it may still be applied.
    #[error("the leader did not answer (after {0} ms): the change may still be made")]
    Timeout(u64),
    #[error("this manager is shutting down")]
    Stopped,
}

/// Why a log is not whole. The texts are those of swarmkit manager/logbroker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("node {0} is not available")]
    NodeAway(String),
    #[error("node {0} disconnected unexpectedly")]
    Broken(String),
    /// The node could not read it.
    #[error("{0}")]
    Unreadable(String),
    #[error(
        "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online."
    )]
    NoLeader,
}

/// The way into the Raft log, whoever leads. Implemented by the Raft room; tests of the API apply directly.
#[async_trait]
pub trait Propose: Send + Sync + 'static {
    /// Commits a change through the leader and waits until this manager has applied it too.
    async fn propose(&self, change: Change) -> Result<Applied, ControlError>;
    /// Waits until the local state holds everything that was committed before the call (Raft ReadIndex).
    async fn barrier(&self) -> Result<(), ControlError>;
    /// The log of a container on another node, in the Engine's pieces, read by `query` of `/containers/{id}/logs`. It
    /// ends early with an error; dropping the receiver ends it at the node, too.
    async fn node_log(
        &self,
        node_id: &str,
        container_id: &str,
        query: &str,
    ) -> Result<mpsc::Receiver<Result<Vec<u8>, LogError>>, LogError>;
    /// Whether the leader hears the member (`ManagerStatus.Reachability`).
    fn reachable(&self, raft_id: RaftId) -> bool;
}

#[derive(Clone)]
pub struct Manager {
    proposer: Arc<dyn Propose>,
    state: watch::Receiver<Arc<ClusterState>>,
    leader: watch::Receiver<Option<Leader>>,
}

impl Manager {
    pub fn new(
        proposer: Arc<dyn Propose>,
        state: watch::Receiver<Arc<ClusterState>>,
        leader: watch::Receiver<Option<Leader>>,
    ) -> Manager {
        Manager {
            proposer,
            state,
            leader,
        }
    }

    /// Commits a change. A refusal of apply is [`ControlError::Refused`].
    pub async fn propose(&self, change: Change) -> Result<Applied, ControlError> {
        self.proposer.propose(change).await
    }

    /// See [`Propose::barrier`].
    pub async fn barrier(&self) -> Result<(), ControlError> {
        self.proposer.barrier().await
    }

    /// See [`Propose::node_log`].
    pub async fn node_log(
        &self,
        node_id: &str,
        container_id: &str,
        query: &str,
    ) -> Result<mpsc::Receiver<Result<Vec<u8>, LogError>>, LogError> {
        self.proposer.node_log(node_id, container_id, query).await
    }

    /// See [`Propose::reachable`].
    pub fn reachable(&self, raft_id: RaftId) -> bool {
        self.proposer.reachable(raft_id)
    }

    /// The local applied state and its changes. May lag behind the leader's.
    pub fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.clone()
    }

    /// The leader and its changes; `None` while there is none in reach.
    pub fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.clone()
    }
}
