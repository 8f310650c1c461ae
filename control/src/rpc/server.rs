//! The manager's side of node RPC: the port, who may call what, and the services.

mod ca;
mod control;
mod logs;
mod membership;
mod raft;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Extensions, Status};

use super::gate::{Closable, Gate, Peer};
use super::tls::{self, TlsError};
use super::wire::MAX_MESSAGE;
use super::wire::service::{
    ca_server::CaServer, control_server::ControlServer, dispatcher_server::DispatcherServer,
    logs_server::LogsServer, membership_server::MembershipServer, raft_server::RaftServer,
};
use crate::ca::Identity;
use crate::ca::authority::{CertNames, names};
use crate::leader::Lead;
use crate::model::Role;
use crate::raft::group::Group;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at a time; more wait in the kernel's queue.
const HANDSHAKES: usize = 64;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Deadline of every answer whose caller set none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("listen on {address}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
}

/// Whom a method serves. A method that asks for nobody is open to callers without a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allowed {
    /// Managers, also such as this one does not know yet: its own state may lag behind.
    RaftMember,
    /// Managers that the state knows as such.
    Manager,
    /// Every node that the state knows.
    Node,
}

/// What the services share.
pub struct Desk {
    pub group: Arc<Group>,
    pub lead: Arc<Lead>,
    pub cluster_id: String,
    gate: Arc<Gate>,
    peers: Mutex<Connected>,
}

#[derive(Default)]
struct Connected {
    /// Open connections by node id.
    tokens: BTreeMap<String, Vec<CancellationToken>>,
    /// Nodes that this manager saw being removed.
    removed: BTreeSet<String>,
}

impl Desk {
    pub fn new(group: Arc<Group>, lead: Arc<Lead>, cluster_id: &str, gate: Arc<Gate>) -> Desk {
        Desk {
            group,
            lead,
            cluster_id: cluster_id.to_string(),
            gate,
            peers: Mutex::new(Connected::default()),
        }
    }

    /// Who calls, if the method serves it.
    fn caller(&self, extensions: &Extensions, allowed: Allowed) -> Result<CertNames, Status> {
        let names = extensions
            .get::<Peer>()
            .and_then(|peer| peer.0.clone())
            .ok_or_else(|| Status::unauthenticated("this call needs a node certificate"))?;
        let denied = |why: &str| Err(Status::permission_denied(why));
        if names.cluster_id != self.cluster_id {
            return denied("the certificate is of another swarm");
        }
        // The handshake checked this, but a session outlives many handshakes.
        if names.not_after < time::OffsetDateTime::now_utc().unix_timestamp() {
            return denied("the certificate has expired");
        }
        if self.lock().removed.contains(&names.node_id) {
            return denied("the node was removed from the swarm");
        }
        let state = self.group.state();
        let state = state.borrow();
        let node = state.nodes.get(&names.node_id);
        let manager = names.role == Role::Manager;
        match (allowed, node) {
            (Allowed::RaftMember, Some(node)) if node.left_behind => {
                denied("the node is a manager of another Raft group: it was left behind")
            }
            (Allowed::RaftMember, _) if manager => Ok(names),
            (Allowed::Manager, Some(node)) if manager && node.raft_id != 0 => Ok(names),
            (Allowed::Node, Some(_)) => Ok(names),
            (_, None) => denied("the node is not known to the swarm"),
            _ => denied("this call is for managers"),
        }
    }

    /// Remembers a connection, so that it can be closed when the node is removed. False: it was.
    fn connected(&self, node_id: &str, token: &CancellationToken) -> bool {
        let mut peers = self.lock();
        if peers.removed.contains(node_id) {
            return false;
        }
        let tokens = peers.tokens.entry(node_id.to_string()).or_default();
        tokens.retain(|token| !token.is_cancelled());
        tokens.push(token.clone());
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connected> {
        self.peers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Closes the connections of nodes that vanish from the state.
    pub async fn watch_removed(self: Arc<Self>) {
        let mut state = self.group.state();
        let mut known: BTreeSet<String> = BTreeSet::new();
        loop {
            let now: BTreeSet<String> = state.borrow_and_update().nodes.keys().cloned().collect();
            for node_id in known.difference(&now) {
                tracing::info!(node_id, "the node was removed: closing its connections");
                let mut peers = self.lock();
                peers.removed.insert(node_id.clone());
                for token in peers.tokens.remove(node_id).unwrap_or_default() {
                    token.cancel();
                }
            }
            known = now;
            if state.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Binds the port. Nothing is served before [`serve`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServerError::Listen { address, source })
}

type Stream = Closable<TlsStream<TcpStream>>;

/// Serves until the token is cancelled.
pub async fn serve(
    listener: TcpListener,
    desk: Arc<Desk>,
    identity: watch::Receiver<Identity>,
    stop: CancellationToken,
) {
    let (accepted, incoming) = mpsc::channel::<std::io::Result<Stream>>(16);
    let accepting = accept(listener, desk.clone(), identity, accepted);
    let limit = MAX_MESSAGE;
    macro_rules! sized {
        ($server:ident) => {
            $server::from_arc(desk.clone())
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit)
        };
    }
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .timeout(ANSWER_TIMEOUT)
        .add_service(sized!(RaftServer))
        .add_service(sized!(ControlServer))
        .add_service(sized!(CaServer))
        .add_service(sized!(MembershipServer))
        .add_service(sized!(DispatcherServer))
        .add_service(sized!(LogsServer))
        .serve_with_incoming(ReceiverStream::new(incoming));
    tokio::select! {
        () = stop.cancelled() => {}
        () = accepting => {}
        result = serving => {
            if let Err(error) = result {
                tracing::error!(error = &error as &dyn std::error::Error, "node RPC ended");
            }
        }
    }
}

async fn accept(
    listener: TcpListener,
    desk: Arc<Desk>,
    mut identity: watch::Receiver<Identity>,
    accepted: mpsc::Sender<std::io::Result<Stream>>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let mut acceptor = None;
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                // Out of file descriptors, mostly: the next one may work.
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "accept on the node RPC port"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if acceptor.is_none() || identity.has_changed().unwrap_or(false) {
            acceptor = acceptor_for(&identity.borrow_and_update()).or(acceptor);
        }
        let (Some(acceptor), Ok(permit)) = (acceptor.clone(), handshakes.clone().acquire_owned().await)
        else {
            continue;
        };
        let (desk, accepted) = (desk.clone(), accepted.clone());
        tokio::spawn(async move {
            let _permit = permit;
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(stream, acceptor, &desk)).await {
                Ok(Ok(Some(stream))) => {
                    if accepted.send(Ok(stream)).await.is_err() {
                        tracing::debug!("a connection came while the server stopped");
                    }
                }
                Ok(Ok(None)) => tracing::info!(%address, "refused a connection of a removed node"),
                Ok(Err(error)) => {
                    tracing::debug!(%address, error = &error as &dyn std::error::Error, "TLS handshake failed");
                }
                Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
            }
        });
    }
}

fn acceptor_for(identity: &Identity) -> Option<TlsAcceptor> {
    let config: Result<_, TlsError> = tls::server(identity);
    match config {
        Ok(config) => Some(TlsAcceptor::from(Arc::new(config))),
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the node's certificate is of no use"
            );
            None
        }
    }
}

/// `None`: the node at the other end was removed.
async fn handshake(stream: TcpStream, acceptor: TlsAcceptor, desk: &Desk) -> std::io::Result<Option<Stream>> {
    stream.set_nodelay(true)?;
    let token = desk.gate.token();
    let Some(stream) = token.run_until_cancelled(acceptor.accept(stream)).await else {
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    };
    let stream = stream?;
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[CertificateDer<'_>]>::first);
    let peer = Peer(certificate.and_then(|der| names(der)));
    if let Some(names) = &peer.0
        && !desk.connected(&names.node_id, &token)
    {
        return Ok(None);
    }
    Ok(Some(Closable::new(stream, token, peer)))
}
