//! Joining a swarm by token.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{JoinParams, Joined, ManagerConfig, RunError, RunningManager, files, start};
use crate::ca::authority::make_request;
use crate::ca::{Identity, token};
use crate::model::*;
use crate::raft::group::Store;
use crate::rpc::client::{ClientError, NodeClient};
use crate::rpc::gate::Gate;
use crate::rpc::join::{JoinCallError, fetch_root, issue};
use crate::rpc::server::{ServerError, bind};
use crate::rpc::wire::IssueRequest;

/// How long the first copy of the state may take.
const COPY_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Swarm's text; nothing was changed.
    #[error("invalid join token")]
    InvalidToken,
    #[error("remote CA does not match fingerprint. Expected: {expected}")]
    Fingerprint { expected: String },
    #[error("no remote address was given")]
    NoRemote,
    #[error("the manager could not be reached: {last}")]
    Unreachable { last: String },
    /// The manager's own words.
    #[error("{0}")]
    Refused(String),
    #[error("the leader did not take this manager into the swarm: {0}")]
    NotMember(#[source] ClientError),
    #[error("the state of the swarm did not arrive in time")]
    NoState,
    #[error(transparent)]
    Run(#[from] RunError),
}

impl From<JoinCallError> for JoinError {
    fn from(error: JoinCallError) -> JoinError {
        match error {
            JoinCallError::InvalidToken => JoinError::InvalidToken,
            JoinCallError::Fingerprint { expected } => JoinError::Fingerprint { expected },
            JoinCallError::Unreachable { last } => JoinError::Unreachable { last },
            JoinCallError::Refused(text) if text == JoinError::InvalidToken.to_string() => {
                JoinError::InvalidToken
            }
            JoinCallError::Refused(text) => JoinError::Refused(text),
            JoinCallError::Tls(error) => JoinError::Refused(error.to_string()),
        }
    }
}

/// Joins a swarm as worker or manager, as the token says. `remote_addrs`: `host:port` of managers. On an error this node
/// is in no swarm.
pub async fn join(
    state_dir: &Path,
    listen: SocketAddr,
    advertise: &str,
    remote_addrs: &[String],
    join_token: &str,
    params: JoinParams,
) -> Result<Joined, JoinError> {
    files::prepare(state_dir)?;
    // Before anything is asked for: a manager that cannot listen must not become one. A worker needs no port.
    let listener = bind(listen).await;
    let issued = first_certificate(remote_addrs, join_token, advertise, params).await?;
    let identity = issued.identity;
    let mut managers = issued.managers;
    if managers.is_empty() {
        managers = remote_addrs.to_vec();
    }
    let running = match identity.role {
        Role::Worker => None,
        Role::Manager => {
            let listener = listener.map_err(RunError::from)?;
            let config = ManagerConfig {
                state_dir: state_dir.to_path_buf(),
                listen,
                advertise: advertise.to_string(),
                identity: identity.clone(),
                raft_id: issued.raft_id,
                unlock: None,
            };
            let running = start::assemble_on(listener, config, Store::default()).await?;
            let others = managers
                .iter()
                .filter(|address| *address != advertise)
                .cloned()
                .collect();
            if let Err(error) = become_member(&running, others).await {
                running.stop().await;
                files::clear(state_dir)?;
                return Err(error);
            }
            Some(running)
        }
    };
    let facts = super::Facts {
        raft_id: issued.raft_id,
        listen,
        advertise: advertise.to_string(),
        managers: managers.clone(),
    };
    files::store(state_dir, &identity, &facts)?;
    Ok(Joined {
        node_id: identity.node_id.clone(),
        role: identity.role,
        cluster_id: identity.cluster_id.clone(),
        identity,
        managers,
        running,
    })
}

struct Issued {
    identity: Identity,
    raft_id: u64,
    managers: Vec<String>,
}

async fn first_certificate(
    remote_addrs: &[String],
    join_token: &str,
    advertise: &str,
    params: JoinParams,
) -> Result<Issued, JoinError> {
    token::parse(join_token).map_err(|_| JoinError::InvalidToken)?;
    let (key_pem, csr_pem) = make_request().map_err(RunError::from)?;
    let data_path_address = if params.data_path_address.is_empty() {
        params.address.clone()
    } else {
        params.data_path_address
    };
    let request = IssueRequest {
        token: join_token.to_string(),
        csr_pem,
        availability: params.availability as i32,
        address: params.address,
        data_path_address,
        manager_address: advertise.to_string(),
        description: Some(params.description),
    };
    let mut last = JoinError::NoRemote;
    for address in remote_addrs {
        let issued = async {
            let root_pem = fetch_root(address, join_token).await?;
            let reply = issue(address, &root_pem, request.clone()).await?;
            Ok::<_, JoinCallError>((root_pem, reply))
        };
        match issued.await {
            Ok((root_pem, reply)) => {
                let identity =
                    Identity::from_pem(reply.cert_pem, key_pem, root_pem).ok_or(RunError::Certificate)?;
                return Ok(Issued {
                    identity,
                    raft_id: reply.raft_id,
                    managers: reply.managers,
                });
            }
            // Only one that was not there is passed over: an answer holds for all managers.
            Err(error @ JoinCallError::Unreachable { .. }) => last = error.into(),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last)
}

/// Asks the leader to be made a voter, and waits until this member has the swarm's state.
async fn become_member(running: &RunningManager, others: Vec<String>) -> Result<(), JoinError> {
    let identity = watch::channel(running.identity.clone()).1;
    let managers = watch::channel(others).1;
    let client = NodeClient::through(identity, managers, Arc::new(Gate::default()));
    client.join("").await.map_err(JoinError::NotMember)?;
    let mut state = running.manager.state();
    let own = running.identity.node_id.clone();
    let arrived = state.wait_for(|state| state.cluster.is_some() && state.nodes.contains_key(&own));
    match tokio::time::timeout(COPY_TIMEOUT, arrived).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(JoinError::NoState),
    }
}

impl From<ServerError> for JoinError {
    fn from(error: ServerError) -> JoinError {
        JoinError::Run(error.into())
    }
}
