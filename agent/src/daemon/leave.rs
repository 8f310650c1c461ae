//! `swarm leave`: this node forgets its swarm, and everything of ours goes.

use std::path::Path;
use std::time::Duration;

use skep_control::daemon::ApiError;
use tokio::task::JoinSet;

use super::errors::{error, not_in_a_swarm};
use super::{Daemon, State};
use crate::io::docker::Engine;
use crate::io::ledger::Ledger;
use crate::member::{View, remove_network};
use crate::reconciler::chain;

/// The managers are told, but a leave does not hang on them.
const TELL: Duration = Duration::from_secs(5);
/// Other nodes take this node's ingress addresses in less.
const HAND_OVER: Duration = Duration::from_secs(1);
/// Grace period of containers that stop because their node leaves.
const GRACE: Duration = Duration::from_secs(10);
/// The driver's own directory: it goes on serving.
const KEPT: &str = "network";

impl Daemon {
    /// Tear-down collects errors and goes on: what is left over is named in the log.
    pub(super) async fn leave_swarm(&self, force: bool) -> Result<(), ApiError> {
        let mut slot = match self.member.try_lock() {
            Ok(slot) => slot,
            Err(_) => {
                return Err(error(
                    503,
                    "another change of this node's membership is under way",
                ));
            }
        };
        let Some(member) = slot.take() else {
            let locked = match &*self.state.borrow() {
                State::Locked(node_id) => Some(node_id.clone()),
                _ => None,
            };
            return match locked {
                Some(node_id) => self.leave_locked(&node_id).await,
                None => Err(not_in_a_swarm()),
            };
        };
        if !force && let Some(text) = objection(member.view()) {
            *slot = Some(member);
            return Err(error(503, text));
        }
        let view = member.view().clone();
        self.hand_over(HAND_OVER).await;
        let told = tokio::time::timeout(TELL, view.client.leave()).await;
        match told {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => tracing::warn!(error = %chain(&failure), "tell the managers"),
            Err(_) => tracing::warn!("the managers do not answer"),
        }
        let node_id = view.node_id.clone();
        drop(view);
        self.state.send_replace(State::Inactive);
        // The reconciler ends first, or it would bring the containers back.
        let quiet = member.quiesce().await;
        let mut errors = remove_containers(&self.common.engine, &node_id).await;
        errors.extend(quiet.stop(true).await);
        errors.extend(wipe(&self.common.state_dir));
        for failure in errors {
            tracing::warn!(error = %failure, "leave");
        }
        Ok(())
    }
}

impl Daemon {
    /// A manager that cannot be unlocked can tell nobody that it leaves.
    async fn leave_locked(&self, node_id: &str) -> Result<(), ApiError> {
        let desired = Ledger::new(&self.common.state_dir).load();
        self.state.send_replace(State::Inactive);
        let mut errors = remove_containers(&self.common.engine, node_id).await;
        match desired {
            Ok(desired) => errors.extend(remove_network(&self.common, &desired.unwrap_or_default()).await),
            Err(failure) => errors.push(chain(&failure)),
        }
        errors.extend(wipe(&self.common.state_dir));
        for failure in errors {
            tracing::warn!(error = %failure, "leave");
        }
        Ok(())
    }
}

/// Why a manager should not just leave (moby daemon/cluster/swarm.go).
fn objection(view: &View) -> Option<String> {
    let manager = view.manager()?;
    let mut text =
        String::from("You are attempting to leave the swarm on a node that is participating as a manager. ");
    if manager.leader().borrow().is_some() {
        let state = manager.state().borrow().clone();
        let members: Vec<_> = state
            .nodes
            .values()
            .filter(|n| n.raft_id != 0 && !n.manager_address.is_empty())
            .collect();
        let reachable = members.iter().filter(|n| manager.reachable(n.raft_id)).count();
        if members.len() <= 1 {
            text.push_str(
                "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ",
            );
            return Some(text);
        }
        let left = reachable.saturating_sub(1);
        if left <= (members.len()) / 2 {
            text.push_str(&format!(
                "Removing this node leaves {left} managers out of {}. Without a Raft quorum your swarm will be inaccessible. ",
                members.len()
            ));
        }
    } else {
        text.push_str("Doing so may lose the consensus of your cluster. ");
    }
    text.push_str(
        "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. \
         Use `--force` to suppress this message.",
    );
    Some(text)
}

async fn remove_containers(engine: &Engine, node_id: &str) -> Vec<String> {
    let containers = match engine.containers(node_id).await {
        Ok(containers) => containers,
        Err(failure) => return vec![chain(&failure)],
    };
    let mut removals = JoinSet::new();
    for id in containers.into_keys() {
        let engine = engine.clone();
        removals.spawn(async move {
            let stopped = engine.stop(&id, GRACE).await;
            let removed = engine.remove(&id).await;
            [stopped, removed]
                .into_iter()
                .filter_map(Result::err)
                .map(|e| chain(&e))
                .collect::<Vec<_>>()
        });
    }
    removals.join_all().await.concat()
}

/// Everything in the state directory but the driver's.
fn wipe(state_dir: &Path) -> Vec<String> {
    let entries = match std::fs::read_dir(state_dir) {
        Ok(entries) => entries,
        Err(failure) => return vec![format!("read {}: {failure}", state_dir.display())],
    };
    let mut errors = Vec::new();
    for entry in entries.flatten().filter(|e| e.file_name() != KEPT) {
        let path = entry.path();
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        if let Err(failure) = removed {
            errors.push(format!("remove {}: {failure}", path.display()));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wipe_leaves_only_the_driver_s_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("node.json"), "{}").unwrap();
        std::fs::create_dir_all(dir.path().join("raft/deep")).unwrap();
        std::fs::create_dir_all(dir.path().join(KEPT)).unwrap();
        assert_eq!(wipe(dir.path()), Vec::<String>::new());
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, [KEPT]);
    }
}
