//! A node that was in a swarm when its agent ended goes on where it was.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use skep_control::ca::{Identity, UnlockKey};
use skep_control::daemon::ApiError;
use skep_control::run::{self, Facts, RunError, RunningManager};

use super::errors::error;
use super::{Daemon, State};
use crate::core::backoff::Backoff;
use crate::core::desired::Desired;
use crate::io::ledger::{Ledger, LedgerError};
use crate::member::{Member, Start};
use crate::reconciler::chain;

/// Reads what is stored and takes the membership up again. A worker acts on its ledger at once; so does a manager, whose
/// Raft starts beside it. A manager that is locked waits for its key.
///
/// # Errors
/// When the stored state cannot be read: a person must look.
pub async fn resume(daemon: &Arc<Daemon>) -> anyhow::Result<()> {
    let mut slot = daemon.member.lock().await;
    match take_up_stored(daemon, None, &mut slot).await {
        Err(Failure::Run(RunError::Locked)) => {
            let node_id = run::stored_node_id(&daemon.common.state_dir)?;
            let node_id = node_id.context("this manager is locked, but its certificate is gone")?;
            tracing::info!(node = %node_id, "this manager is locked");
            daemon.state.send_replace(State::Locked(node_id));
            Ok(())
        }
        done => Ok(done?),
    }
}

/// Opens what this manager stored, and takes its membership up.
pub async fn unlock(daemon: &Daemon, key: UnlockKey) -> Result<(), ApiError> {
    let mut slot = daemon
        .member
        .try_lock()
        .map_err(|_| error(409, "swarm is not locked"))?;
    match take_up_stored(daemon, Some(key), &mut slot).await {
        Ok(()) => Ok(()),
        Err(Failure::Run(RunError::Locked)) => {
            Err(error(401, "swarm could not be unlocked: invalid key provided"))
        }
        Err(failure) => Err(error(
            500,
            format!("swarm component could not be started: {}", chain(&failure)),
        )),
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

async fn take_up_stored(
    daemon: &Daemon,
    unlock: Option<UnlockKey>,
    slot: &mut Option<Member>,
) -> Result<(), Failure> {
    let state_dir = &daemon.common.state_dir;
    let Some((facts, identity)) = run::stored(state_dir, unlock.as_ref())? else {
        return Ok(());
    };
    let desired = Ledger::new(state_dir).load()?.unwrap_or_default();
    tracing::info!(node = %identity.node_id, index = desired.index, items = desired.items.len(), "resume");
    let running = if facts.raft_id == 0 {
        None
    } else {
        Some(start_manager(daemon, &facts, &identity, unlock.as_ref()).await)
    };
    let start = start(facts, identity, running, unlock, desired);
    daemon.take_up(Member::start(&daemon.common, start), slot);
    Ok(())
}

/// For ever: a manager whose port or disk is not there yet is no reason to give up.
async fn start_manager(
    daemon: &Daemon,
    facts: &Facts,
    identity: &Identity,
    unlock: Option<&UnlockKey>,
) -> RunningManager {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    loop {
        let config = facts.manager_config(&daemon.common.state_dir, identity.clone(), unlock.cloned());
        match run::start(config).await {
            Ok(running) => return running,
            Err(failure) => {
                let text = chain(&failure);
                tracing::error!(error = %text, "start the manager");
                daemon.state.send_replace(State::Pending(text));
            }
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

pub(super) fn start(
    facts: Facts,
    identity: Identity,
    running: Option<RunningManager>,
    lock: Option<UnlockKey>,
    desired: Desired,
) -> Start {
    let address: Result<SocketAddr, _> = facts.advertise.parse();
    let address = address.map_or(facts.advertise.clone(), |a| a.ip().to_string());
    let underlay = desired
        .underlay_of(&identity.node_id)
        .unwrap_or_default()
        .to_string();
    let mut managers = desired.swarm().map(|s| s.managers.clone()).unwrap_or_default();
    managers.extend(
        facts
            .managers
            .iter()
            .filter(|m| !managers.contains(m))
            .cloned()
            .collect::<Vec<_>>(),
    );
    if running.is_some() && !managers.contains(&facts.advertise) {
        managers.insert(0, facts.advertise.clone());
    }
    Start {
        identity,
        managers,
        running,
        lock,
        address,
        data_path_address: underlay,
        // The session's first greeting says nothing of the Engine; it follows when the Engine answers.
        description: None,
        desired,
    }
}
