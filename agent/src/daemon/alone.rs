//! `swarm init --force-new-cluster`: a manager that lost the others goes on as the only one of its swarm.

use skep_control::ca::UnlockKey;
use skep_control::daemon::{ApiError, InitRequest};
use skep_control::run;

use super::errors::{error, not_in_a_swarm};
use super::join::{addresses, interfaces};
use super::{Daemon, State, first_assignments, restart};
use crate::io::ledger::Ledger;
use crate::member::Member;
use crate::reconciler::chain;

impl Daemon {
    /// Containers and forwarding go on meanwhile. On an error the manager is started as it was with the agent's next
    /// start.
    pub(super) async fn go_on_alone(&self, request: InitRequest) -> Result<String, ApiError> {
        let mut slot = self
            .member
            .try_lock()
            .map_err(|_| error(503, "another change of this node's membership is under way"))?;
        // Where none is named, the addresses stay what they are.
        let (mut listen, mut advertise) = (None, None);
        if !request.advertise_addr.is_empty() {
            let found = addresses(
                &request.listen_addr,
                &request.advertise_addr,
                &request.data_path_addr,
                &interfaces()?,
            )?;
            (listen, advertise) = (Some(found.listen), Some(found.advertise.to_string()));
        }
        let lock = slot.as_ref().map(lock_of).transpose()?.flatten();
        let member = slot.take().ok_or_else(not_in_a_swarm)?;
        for failure in member.stop(false).await {
            tracing::warn!(error = %failure, "force a new cluster");
        }
        self.state.send_replace(State::Pending(String::new()));
        match self.restart_alone(listen, advertise, lock).await {
            Ok(member) => {
                let node_id = member.view().node_id.clone();
                let view = self.take_up(member, &mut slot);
                drop(slot);
                first_assignments(&view).await;
                Ok(node_id)
            }
            Err(failure) => {
                self.state.send_replace(State::Pending(failure.message.clone()));
                Err(failure)
            }
        }
    }

    async fn restart_alone(
        &self,
        listen: Option<std::net::SocketAddr>,
        advertise: Option<String>,
        lock: Option<UnlockKey>,
    ) -> Result<Member, ApiError> {
        let state_dir = &self.common.state_dir;
        let failed = |failure: run::RunError| error(500, chain(&failure));
        let stored = run::stored(state_dir, lock.as_ref()).map_err(failed)?;
        let (_, identity) = stored.ok_or_else(not_in_a_swarm)?;
        let running = run::force_new_cluster(state_dir, &identity, lock.clone(), listen, advertise)
            .await
            .map_err(failed)?;
        let stored = run::stored(state_dir, lock.as_ref()).map_err(failed)?;
        let (facts, identity) = stored.ok_or_else(not_in_a_swarm)?;
        let desired = Ledger::new(state_dir).load().map_err(|e| error(500, chain(&e)))?;
        let desired = desired.unwrap_or_default();
        let start = restart::start(facts, identity, Some(running), lock, desired);
        Ok(Member::start(&self.common, start))
    }
}

/// What the stored keys of a running manager are locked with.
fn lock_of(member: &Member) -> Result<Option<UnlockKey>, ApiError> {
    let Some(manager) = member.view().manager() else {
        return Ok(None);
    };
    let state = manager.state().borrow().clone();
    let key = state.cluster.as_ref().map_or("", |cluster| &cluster.unlock_key);
    UnlockKey::stored(key).map_err(|failure| error(500, format!("the swarm's unlock key: {failure}")))
}
