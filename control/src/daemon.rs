//! What the Docker API asks of the node it runs on. The agent implements it: the API knows no Docker driver,
//! no kernel and no file.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::ca::UnlockKey;
use crate::manager::Manager;
use crate::model::{Availability, ClusterSpec, Items, NetworkItem};

/// What this node is in a swarm, seen from its API.
#[derive(Clone)]
pub enum Membership {
    /// In no swarm.
    Inactive,
    /// Joining goes on in the background.
    Pending {
        error: String,
    },
    /// What this manager stored is locked: it needs the unlock key.
    Locked {
        node_id: String,
    },
    Worker(Member),
    Manager(Member, Arc<Manager>),
}

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Member {
    pub node_id: String,
    pub cluster_id: String,
    /// Routable address of this node, without port.
    pub address: String,
    /// `(node id, host:port)` of the managers as last known.
    pub managers: Vec<(String, String)>,
}

/// `POST /swarm/init`, as moby api/types/swarm InitRequest has it.
#[derive(Clone, Debug)]
pub struct InitRequest {
    pub listen_addr: String,
    pub advertise_addr: String,
    pub data_path_addr: String,
    /// 0 = 4789.
    pub data_path_port: u32,
    pub default_addr_pool: Vec<String>,
    /// 0 = 24.
    pub subnet_size: u32,
    pub availability: Availability,
    pub spec: ClusterSpec,
    /// A manager goes on as the only one of its swarm, with all that it knows.
    pub force_new_cluster: bool,
}

/// `POST /swarm/join`.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    pub listen_addr: String,
    pub advertise_addr: String,
    pub data_path_addr: String,
    pub remote_addrs: Vec<String>,
    pub join_token: String,
    pub availability: Availability,
}

/// An HTTP status and the text of `{"message": ...}`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub status: u16,
    pub message: String,
}

/// A plain container's place on an attachable network.
#[derive(Clone, Debug)]
pub struct Grant {
    pub attachment_id: String,
    /// CIDR text.
    pub address: String,
    pub network: NetworkItem,
    /// Id of the node-local twin network in the Engine; it exists when this is returned.
    pub engine_network_id: String,
}

#[async_trait]
pub trait NodeDaemon: Send + Sync + 'static {
    fn membership(&self) -> Membership;
    /// Answers the node id.
    async fn init(&self, request: InitRequest) -> Result<String, ApiError>;
    async fn join(&self, request: JoinRequest) -> Result<(), ApiError>;
    async fn leave(&self, force: bool) -> Result<(), ApiError>;
    /// Opens what a locked manager stored; 401 for another key.
    async fn unlock(&self, key: UnlockKey) -> Result<(), ApiError>;
    /// The items this node works by (also what a worker knows of its networks).
    fn items(&self) -> Arc<Items>;
    /// Engine network id -> swarm network id of every node-local twin network.
    fn twins(&self) -> Arc<BTreeMap<String, String>>;
    /// Reserves an address on an attachable network (id or name) for a container about to be created, and makes the
    /// twin network exist. `wished` is a fixed address or empty.
    async fn attach(&self, network: &str, names: Vec<String>, wished: &str) -> Result<Grant, ApiError>;
    /// Tells which container the reservation became.
    async fn attached(&self, attachment_id: &str, container_id: &str) -> Result<(), ApiError>;
    /// Gives a reservation back (the create failed).
    async fn detach(&self, attachment_id: &str) -> Result<(), ApiError>;
    /// Path of Skep's own API socket on this node (replaces a bind of /var/run/docker.sock).
    fn api_socket(&self) -> String;
    /// Address that plain containers on overlays get as their DNS server.
    fn resolver(&self) -> String;
    /// The body of `GET /skep/<path>`, which the `skep` command reads; `None` = no such page. Served at every API
    /// version and without one; nothing of it goes to the Engine.
    async fn page(&self, _path: &str) -> Option<serde_json::Value> {
        None
    }
}
