//! A node that was in a swarm when its agent ended goes on where it was.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use skep_control::ca::Identity;
use skep_control::run::{self, Facts, ManagerConfig, RunningManager};

use super::{Daemon, State};
use crate::core::backoff::Backoff;
use crate::core::desired::Desired;
use crate::io::ledger::Ledger;
use crate::member::{Member, Start};
use crate::reconciler::chain;

/// Reads what is stored and takes the membership up again. A worker acts on its ledger at once; so does a manager, whose
/// Raft starts beside it.
///
/// # Errors
/// When the stored state cannot be read: a person must look.
pub async fn resume(daemon: &Arc<Daemon>) -> anyhow::Result<()> {
    let state_dir = &daemon.common.state_dir;
    let Some((facts, identity)) = run::stored(state_dir)? else {
        return Ok(());
    };
    let desired = Ledger::new(state_dir).load()?.unwrap_or_default();
    tracing::info!(node = %identity.node_id, index = desired.index, items = desired.items.len(), "resume");
    let running = if facts.raft_id == 0 {
        None
    } else {
        Some(start_manager(daemon, &facts, &identity).await)
    };
    let member = Member::start(&daemon.common, start(facts, identity, running, desired));
    let mut slot = daemon.member.lock().await;
    daemon.take_up(member, &mut slot);
    Ok(())
}

/// For ever: a manager whose port or disk is not there yet is no reason to give up.
async fn start_manager(daemon: &Daemon, facts: &Facts, identity: &Identity) -> RunningManager {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    loop {
        let config = ManagerConfig {
            state_dir: daemon.common.state_dir.clone(),
            listen: facts.listen,
            advertise: facts.advertise.clone(),
            identity: identity.clone(),
            raft_id: facts.raft_id,
        };
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

fn start(facts: Facts, identity: Identity, running: Option<RunningManager>, desired: Desired) -> Start {
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
        address,
        data_path_address: underlay,
        // The session's first greeting says nothing of the Engine; it follows when the Engine answers.
        description: None,
        desired,
    }
}
