//! A manager that goes on without the others (`docker swarm init --force-new-cluster`).

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::{RunError, RunningManager, files, start};
use crate::ca::{Identity, UnlockKey};
use crate::manager::{ControlError, Propose};
use crate::model::{Change, ForceNewCluster};
use crate::raft::group::Store;

/// How long the first command is tried again: the state is applied anew before the leader is one.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the stopped manager of this node as the only one of its swarm. Everything its log holds is kept. `listen` and
/// `advertise` replace the stored ones where they are given.
pub async fn force_new_cluster(
    state_dir: &Path,
    identity: &Identity,
    unlock: Option<UnlockKey>,
    listen: Option<SocketAddr>,
    advertise: Option<String>,
) -> Result<RunningManager, RunError> {
    let mut facts = files::stored_facts(state_dir)?.ok_or(RunError::NotMember)?;
    facts.listen = listen.unwrap_or(facts.listen);
    facts.advertise = advertise.unwrap_or(facts.advertise);
    facts.managers = vec![facts.advertise.clone()];
    let store = Store {
        must_exist: true,
        unlock: unlock.clone(),
        alone_at: Some(facts.advertise.clone()),
    };
    let config = facts.manager_config(state_dir, identity.clone(), unlock);
    let running = start::assemble(config, store).await?;
    let finished = async {
        let change = Change::ForceNewCluster(ForceNewCluster {
            node_id: identity.node_id.clone(),
            manager_address: facts.advertise.clone(),
        });
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            match running.group.propose(change.clone()).await {
                Ok(_) => break,
                Err(ControlError::NoLeader) if tokio::time::Instant::now() < end => {}
                Err(error) => return Err(RunError::FirstCommand(error)),
            }
        }
        files::store_facts(state_dir, &facts)
    };
    match finished.await {
        Ok(()) => Ok(running),
        Err(error) => {
            running.stop().await;
            Err(error)
        }
    }
}
