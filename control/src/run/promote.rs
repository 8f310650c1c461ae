//! A worker becomes a manager, and the other way round, while its tasks go on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Facts, JoinError, RunError, RunningManager, files, start};
use crate::ca::{Identity, UnlockKey};
use crate::raft::group::Store;
use crate::rpc::client::NodeClient;
use crate::rpc::gate::Gate;

/// How long the first copy of the state may take.
const COPY_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts the manager of a member whose certificate says that it is one. It is no Raft member before [`enter`].
/// `raft_id` is what the swarm gave it; a store of another one is of an earlier time as a manager, and goes.
pub async fn promote(
    state_dir: &Path,
    identity: &Identity,
    raft_id: u64,
    unlock: Option<UnlockKey>,
) -> Result<RunningManager, RunError> {
    let facts = files::stored_facts(state_dir)?.ok_or(RunError::NotMember)?;
    if facts.raft_id == raft_id {
        return start::start(facts.manager_config(state_dir, identity.clone(), unlock)).await;
    }
    files::clear_raft(state_dir)?;
    files::make_dir(&files::raft_dir(state_dir))?;
    let facts = Facts { raft_id, ..facts };
    let config = facts.manager_config(state_dir, identity.clone(), None);
    let running = start::assemble(config, Store::default()).await?;
    // After the store exists: a start finds one that the facts speak of.
    match files::store_facts(state_dir, &facts) {
        Ok(()) => Ok(running),
        Err(error) => {
            running.stop().await;
            Err(error)
        }
    }
}

/// Asks the leader to be made a voter, and waits for the swarm's state.
pub async fn enter(running: &RunningManager, managers: Vec<String>) -> Result<(), JoinError> {
    let identity = running.renewed.subscribe();
    let client = NodeClient::through(identity, watch::channel(managers).1, Arc::new(Gate::default()));
    client
        .join(&running.advertise)
        .await
        .map_err(JoinError::NotMember)?;
    let mut state = running.manager.state();
    let arrived = state.wait_for(|state| state.cluster.is_some());
    match tokio::time::timeout(COPY_TIMEOUT, arrived).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(JoinError::NoState),
    }
}

/// Ends the manager of a node that is a worker from now on; its store goes.
pub async fn demote(state_dir: &Path, running: RunningManager) -> Result<(), RunError> {
    running.stop().await;
    let facts = files::stored_facts(state_dir)?.ok_or(RunError::NotMember)?;
    files::store_facts(state_dir, &Facts { raft_id: 0, ..facts })?;
    files::clear_raft(state_dir)
}
