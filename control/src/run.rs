//! Starting a manager: init of a swarm, join of one, and start after a reboot.
//!
//! A state directory holds `node.json` ([`Facts`]), the identity (`node.crt`, `root.crt`) and, for a manager, `raft/`.
//! `node.json` is written last: without it the node is in no swarm.

mod alone;
mod files;
mod join;
mod lock;
mod promote;
mod start;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ca::authority::{Authority, NODE_LIFE, make_request};
use crate::ca::{AuthorityError, Identity, IdentityError, UnlockKey, token};
use crate::core::root;
use crate::manager::{ControlError, Manager, Propose};
use crate::model::id::object_id;
use crate::model::*;
use crate::raft::group::{Group, GroupError, Store};
use crate::raft::seal::SealError;
use crate::rpc::gate::Gate;
use crate::rpc::server::ServerError;

pub use alone::force_new_cluster;
pub use files::{clear, stored, stored_node_id};
pub use join::{JoinError, join};
pub use lock::{relock, store_identity};
pub use promote::{demote, enter, promote};
pub use start::start;

/// What a manager is started from.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    pub state_dir: PathBuf,
    pub listen: SocketAddr,
    /// `host:port` that other nodes reach this manager by.
    pub advertise: String,
    pub identity: Identity,
    pub raft_id: u64,
    /// Opens the store where managers are locked.
    pub unlock: Option<UnlockKey>,
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

impl Facts {
    /// What [`start`] takes.
    pub fn manager_config(
        &self,
        state_dir: &Path,
        identity: Identity,
        unlock: Option<UnlockKey>,
    ) -> ManagerConfig {
        ManagerConfig {
            state_dir: state_dir.to_path_buf(),
            listen: self.listen,
            advertise: self.advertise.clone(),
            identity,
            raft_id: self.raft_id,
            unlock,
        }
    }
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
    #[error("{operation} {path}")]
    File {
        operation: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} does not decode")]
    Facts {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{path} is there, but the node's certificate is not")]
    NoIdentity { path: PathBuf },
    #[error("this node is part of a swarm already")]
    AlreadyMember,
    /// Another unlock key is needed, or one at all.
    #[error("what this node stored is locked")]
    Locked,
    #[error("the lock of the Raft store")]
    Lock(#[source] SealError),
    #[error("this node is in no swarm")]
    NotMember,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("the certificate just made is not a node's")]
    Certificate,
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("the first command was not committed: {0}")]
    FirstCommand(#[source] ControlError),
}

/// A manager at work: Raft member, node RPC, and the leader's loops while it leads.
pub struct RunningManager {
    pub manager: Manager,
    pub identity: Identity,
    pub raft_id: u64,
    /// `host:port`.
    pub advertise: String,
    group: Arc<Group>,
    renewed: watch::Sender<Identity>,
    gate: Arc<Gate>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Makes a swarm: CA, tokens, keys, a single-member Raft, and the first command. On an error nothing remains of it.
pub async fn init(
    state_dir: &Path,
    listen: SocketAddr,
    advertise: &str,
    params: InitParams,
) -> Result<(RunningManager, Identity), RunError> {
    files::prepare(state_dir)?;
    let now = time::OffsetDateTime::now_utc();
    let authority = Authority::make(now)?;
    let (cluster_id, node_id) = (object_id(rand::random()), object_id(rand::random()));
    let (key_pem, csr_pem) = make_request()?;
    let life = params
        .spec
        .node_cert_expiry
        .map_or(NODE_LIFE, time::Duration::nanoseconds);
    let cert_pem = authority.sign(&csr_pem, &node_id, &cluster_id, Role::Manager, now, life)?;
    let identity =
        Identity::from_pem(cert_pem, key_pem, authority.root_pem.clone()).ok_or(RunError::Certificate)?;
    let config = ManagerConfig {
        state_dir: state_dir.to_path_buf(),
        listen,
        advertise: advertise.to_string(),
        identity: identity.clone(),
        raft_id: 1,
        unlock: None,
    };
    let running = start::assemble(config, Store::default()).await?;
    let found = async {
        running.group.found(advertise).await?;
        let command = first_command(&identity, &authority, advertise, params);
        running
            .group
            .propose(command)
            .await
            .map_err(RunError::FirstCommand)?;
        files::store(
            state_dir,
            &identity,
            &running.facts(listen, vec![advertise.to_string()]),
        )
    };
    match found.await {
        Ok(()) => Ok((running, identity)),
        Err(error) => {
            running.stop().await;
            files::clear(state_dir)?;
            Err(error)
        }
    }
}

fn first_command(identity: &Identity, authority: &Authority, advertise: &str, params: InitParams) -> Change {
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    let mut spec = params.spec;
    // Swarm allows no other name.
    spec.annotations.name = "default".to_string();
    let cluster = Cluster {
        id: identity.cluster_id.clone(),
        unlock_key: if spec.auto_lock_managers {
            UnlockKey::new(rand::random()).text()
        } else {
            String::new()
        },
        spec,
        default_address_pools_set: !params.default_address_pools.is_empty(),
        default_address_pools: params.default_address_pools,
        subnet_size: or(params.subnet_size, 24),
        data_path_port: or(params.data_path_port, 4789),
        root_ca_cert: authority.root_pem.clone(),
        root_ca_key: authority.root_key_pem.clone(),
        worker_token: token::make(&authority.root_pem, rand::random()),
        manager_token: token::make(&authority.root_pem, rand::random()),
        probe_key: rand::random::<[u8; 32]>().to_vec(),
        mesh_seed: rand::random(),
        ..Default::default()
    };
    let data_path_address = if params.data_path_address.is_empty() {
        params.address.clone()
    } else {
        params.data_path_address
    };
    let node = Node {
        id: identity.node_id.clone(),
        spec: NodeSpec {
            role: Role::Manager as i32,
            availability: params.availability as i32,
            ..Default::default()
        },
        manager_address: advertise.to_string(),
        address: params.address,
        data_path_address,
        description: Some(params.description),
        state: NodeState::Unknown as i32,
        certificate: identity.cert_pem.clone(),
        trust_digest: root::digest(&authority.root_pem),
        issuer_digest: root::digest(&authority.root_pem),
        ..Default::default()
    };
    Change::InitCluster(InitCluster {
        cluster,
        node,
        ingress_network_id: object_id(rand::random()),
        ingress_subnet: String::new(),
    })
}

#[cfg(test)]
mod tests;
