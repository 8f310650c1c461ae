//! Starting a manager: init of a swarm, join of one, and start after a reboot.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::ca::Identity;
use crate::manager::Manager;
use crate::model::*;

/// What a manager is started from.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    pub state_dir: PathBuf,
    pub listen: SocketAddr,
    /// `host:port` that other nodes reach this manager by.
    pub advertise: String,
    pub identity: Identity,
    pub raft_id: u64,
}

/// What a new swarm is made from. Zeros and empty lists mean Swarm's defaults.
#[derive(Clone, Debug)]
pub struct InitParams {
    pub spec: ClusterSpec,
    pub default_address_pools: Vec<String>,
    /// Prefix length; 0 = 24.
    pub subnet_size: u32,
    /// 0 = 4789.
    pub data_path_port: u32,
    /// Routable address of this node, without port.
    pub address: String,
    /// Empty = `address`.
    pub data_path_address: String,
    pub description: NodeDescription,
    pub availability: Availability,
}

/// What a joining node says of itself.
#[derive(Clone, Debug)]
pub struct JoinParams {
    /// Routable address of this node, without port.
    pub address: String,
    /// Empty = `address`.
    pub data_path_address: String,
    pub description: NodeDescription,
    pub availability: Availability,
}

/// What a member of a swarm knows of itself between two runs, beside its identity (`node.json` in the state directory).
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Facts {
    /// 0 for a worker.
    pub raft_id: u64,
    pub listen: SocketAddr,
    pub advertise: String,
    /// `host:port` of the managers at the time of the join; the assignments tell of newer ones.
    pub managers: Vec<String>,
}

/// The outcome of a join. A worker runs no manager.
pub struct Joined {
    pub identity: Identity,
    pub node_id: String,
    pub role: Role,
    pub cluster_id: String,
    /// `host:port`.
    pub managers: Vec<String>,
    pub running: Option<RunningManager>,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("not built yet")]
    NotBuilt,
}

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Swarm's text; nothing was changed.
    #[error("invalid join token")]
    InvalidToken,
    #[error("remote CA does not match fingerprint. Expected: {expected}")]
    Fingerprint { expected: String },
    #[error(transparent)]
    Run(#[from] RunError),
}

/// A manager at work: Raft member, node RPC, and the leader's loops while it leads.
pub struct RunningManager {
    pub manager: Manager,
    pub identity: Identity,
    pub raft_id: u64,
    /// `host:port`.
    pub advertise: String,
}

impl RunningManager {
    /// Ends the loops, closes the connections and the store. The member stays a member of its swarm.
    pub async fn stop(self) {}
}

/// Facts and identity of this node's swarm; `None` when it is in none. Blocking file reads.
pub fn stored(_state_dir: &Path) -> Result<Option<(Facts, Identity)>, RunError> {
    Err(RunError::NotBuilt)
}

/// Makes a swarm: CA, tokens, keys, a single-member Raft, and the first command.
pub async fn init(
    _state_dir: &Path,
    _listen: SocketAddr,
    _advertise: &str,
    _params: InitParams,
) -> Result<(RunningManager, Identity), RunError> {
    Err(RunError::NotBuilt)
}

/// Starts the manager of a node that is one already.
pub async fn start(_config: ManagerConfig) -> Result<RunningManager, RunError> {
    Err(RunError::NotBuilt)
}

/// Joins a swarm as worker or manager, as the token says. `remote_addrs`: `host:port` of managers.
pub async fn join(
    _state_dir: &Path,
    _listen: SocketAddr,
    _advertise: &str,
    _remote_addrs: &[String],
    _token: &str,
    _params: JoinParams,
) -> Result<Joined, JoinError> {
    Err(RunError::NotBuilt.into())
}
