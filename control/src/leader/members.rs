//! The Raft membership: managers that join, leave or are gone.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, RaftError};

use super::Lead;
use crate::core::state::ClusterState;
use crate::manager::Propose;
use crate::model::*;
use crate::raft::types::Member;
use crate::rpc::channel::within;
use crate::rpc::wire::PreVoteRequest;

/// How long a new member may take to catch up, and a change to commit.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a new manager may take to answer at its advertised address.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(1);

/// The texts are Swarm's where Swarm has one.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    #[error("node {0} is not a manager of this swarm")]
    NotManager(String),
    #[error("can't remove member from the raft: this would result in a loss of quorum")]
    LossOfQuorum,
    #[error("attempting to demote the last manager of the swarm")]
    LastManager,
    #[error("could not connect to prospective new cluster member using its advertised address: {address}")]
    NotInReach { address: String },
    #[error("the change of the Raft membership failed: {0}")]
    Change(String),
    #[error("the Raft core does not run")]
    Stopped,
}

type WriteError = RaftError<u64, ClientWriteError<u64, Member>>;

/// Awaits one change. `Ok(false)`: this manager does not lead any more.
async fn change<T>(
    work: impl Future<Output = Result<T, WriteError>>,
    late: MemberError,
) -> Result<bool, MemberError> {
    match tokio::time::timeout(CHANGE_TIMEOUT, work).await {
        Err(_) => Err(late),
        Ok(Ok(_)) => Ok(true),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Ok(false),
        Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
            Err(MemberError::Change(error.to_string()))
        }
        Ok(Err(RaftError::Fatal(_))) => Err(MemberError::Stopped),
    }
}

/// Whether the voters that remain without `leaving` have a majority among those in reach.
fn keeps_quorum(voters: &BTreeSet<u64>, leaving: u64, reachable: &BTreeSet<u64>) -> bool {
    let remaining: BTreeSet<u64> = voters.iter().copied().filter(|id| *id != leaving).collect();
    remaining.intersection(reachable).count() > remaining.len() / 2
}

impl Lead {
    fn voters(&self) -> BTreeSet<u64> {
        self.group.membership().voter_ids().collect()
    }

    /// A worker that was promoted runs its manager now, at that address. On failure it stays what it was, and asks again.
    pub async fn add_promoted(&self, node_id: &str, address: &str) -> Result<bool, MemberError> {
        if !self.group.leads() {
            return Ok(false);
        }
        self.report_address(node_id, address).await?;
        let added = self.add(node_id).await;
        if added.is_err()
            && let Err(error) = self.report_address(node_id, "").await
        {
            tracing::warn!(
                node_id,
                error = &error as &dyn std::error::Error,
                "undo a promotion"
            );
        }
        added
    }

    async fn report_address(&self, node_id: &str, address: &str) -> Result<(), MemberError> {
        let report = ReportNode {
            id: node_id.to_string(),
            manager_address: Some(address.to_string()),
            ..Default::default()
        };
        self.report(report).await
    }

    async fn report(&self, report: ReportNode) -> Result<(), MemberError> {
        let reported = self.group.propose(Change::ReportNode(report)).await;
        reported
            .map(|_| ())
            .map_err(|error| MemberError::Change(error.to_string()))
    }

    /// Makes a manager that joins by token a voter. On failure it is no node of the swarm.
    pub async fn add_member(&self, node_id: &str) -> Result<bool, MemberError> {
        let added = self.add(node_id).await;
        if added.is_err()
            && let Err(error) = self.forget(node_id).await
        {
            tracing::warn!(node_id, error = &error as &dyn std::error::Error, "undo a join");
        }
        added
    }

    /// Makes a manager that the state knows a voter: it catches up as a learner first, so that it never counts in a
    /// quorum it cannot help. On failure it is no member. `Ok(false)`: this manager does not lead.
    async fn add(&self, node_id: &str) -> Result<bool, MemberError> {
        if !self.group.leads() {
            return Ok(false);
        }
        let node = self.group.state().borrow().nodes.get(node_id).cloned();
        let node = node
            // One that is being demoted is out already, and may not have heard of it.
            .filter(|node| node.raft_id != 0 && node.spec.role() == Role::Manager)
            .filter(|node| !node.manager_address.is_empty())
            .ok_or_else(|| MemberError::NotManager(node_id.to_string()))?;
        let _turn = self.changes.lock().await;
        if self.voters().contains(&node.raft_id) {
            return Ok(true);
        }
        let member = Member {
            node_id: node.id.clone(),
            address: node.manager_address.clone(),
        };
        let added = self.try_add(node.raft_id, &member).await;
        if added.is_err() {
            tracing::warn!(node_id, "a manager could not join: taking it out again");
            let out = ChangeMembers::RemoveNodes(BTreeSet::from([node.raft_id]));
            let undone = change(
                self.group.raft().change_membership(out, true),
                MemberError::LossOfQuorum,
            )
            .await;
            if let Err(error) = undone {
                tracing::warn!(node_id, error = &error as &dyn std::error::Error, "undo a join");
            }
        }
        added
    }

    async fn try_add(&self, raft_id: u64, member: &Member) -> Result<bool, MemberError> {
        let late = || MemberError::NotInReach {
            address: member.address.clone(),
        };
        // Nothing is changed for one that the others could not talk to.
        let mut client = self.group.peers().raft(member).map_err(|_| late())?;
        let call = client.pre_vote(within(PreVoteRequest {}, REACH_TIMEOUT));
        if !matches!(tokio::time::timeout(REACH_TIMEOUT, call).await, Ok(Ok(_))) {
            return Err(late());
        }
        let raft = self.group.raft();
        if !change(raft.add_learner(raft_id, member.clone(), true), late()).await? {
            return Ok(false);
        }
        let voter = ChangeMembers::AddVoterIds(BTreeSet::from([raft_id]));
        change(raft.change_membership(voter, true), late()).await
    }

    /// Takes a voter out. Refused when those that remain would have no quorum in reach.
    pub async fn remove_member(&self, raft_id: u64) -> Result<bool, MemberError> {
        if !self.group.leads() {
            return Ok(false);
        }
        let _turn = self.changes.lock().await;
        let voters = self.voters();
        if !voters.contains(&raft_id) {
            return Ok(true);
        }
        if voters.len() == 1 {
            return Err(MemberError::LastManager);
        }
        if !keeps_quorum(&voters, raft_id, &self.group.answering()) {
            return Err(MemberError::LossOfQuorum);
        }
        let out = ChangeMembers::RemoveVoters(BTreeSet::from([raft_id]));
        change(
            self.group.raft().change_membership(out, false),
            MemberError::LossOfQuorum,
        )
        .await
    }

    /// A node says that it leaves the swarm: it is down, and if it is a manager no member any more.
    pub async fn leave(&self, node_id: &str, manager: bool) -> Result<bool, MemberError> {
        if !self.group.leads() {
            return Ok(false);
        }
        let node = self.group.state().borrow().nodes.get(node_id).cloned();
        let Some(node) = node else {
            return Ok(true);
        };
        let voters = self.voters();
        let member = manager && voters.contains(&node.raft_id);
        if member && voters.len() == 1 {
            // The swarm ends with it: there is nobody to tell.
            return Ok(true);
        }
        if member && !keeps_quorum(&voters, node.raft_id, &self.group.answering()) {
            return Err(MemberError::LossOfQuorum);
        }
        self.dispatcher.say_goodbye(node_id);
        self.report_gone(node_id).await?;
        if member {
            self.remove_member(node.raft_id).await
        } else {
            Ok(true)
        }
    }

    /// Without a manager address it is a manager that can be removed, and that nobody looks for.
    async fn report_gone(&self, node_id: &str) -> Result<(), MemberError> {
        let report = ReportNode {
            id: node_id.to_string(),
            state: Some(NodeState::Down as i32),
            message: Some("the node left the swarm".to_string()),
            manager_address: Some(String::new()),
            ..Default::default()
        };
        self.report(report).await
    }

    /// Nodes that are to be workers and are members still: each is taken out, and then told so. Refused while that would
    /// lose the quorum, and tried again.
    async fn demote(&self, state: &ClusterState) -> Result<(), MemberError> {
        let asked = state
            .nodes
            .values()
            .filter(|n| n.spec.role() == Role::Worker && n.raft_id != 0);
        for node in asked {
            // This manager itself: the next leader goes on when it is out.
            if !self.remove_member(node.raft_id).await? || !self.group.leads() {
                return Ok(());
            }
            tracing::info!(node_id = node.id, "demoted");
            let report = ReportNode {
                id: node.id.clone(),
                demoted: true,
                ..Default::default()
            };
            self.report(report).await?;
        }
        Ok(())
    }

    /// The record of a manager that did not become a member. Its node may not exist any more: the next join has a new id.
    async fn forget(&self, node_id: &str) -> Result<(), MemberError> {
        self.report_gone(node_id).await?;
        let remove = RemoveNode {
            id: node_id.to_string(),
            force: true,
        };
        let removed = self.group.propose(Change::RemoveNode(remove)).await;
        removed
            .map(|_| ())
            .map_err(|error| MemberError::Change(error.to_string()))
    }

    /// What a crash or a removed node left behind: a membership half changed, members without a node.
    async fn repair_once(&self) -> Result<bool, MemberError> {
        let membership = self.group.membership();
        if membership.get_joint_config().len() > 1 {
            let _turn = self.changes.lock().await;
            let goal = self
                .group
                .membership()
                .get_joint_config()
                .last()
                .cloned()
                .unwrap_or_default();
            let finish = ChangeMembers::ReplaceAllVoters(goal);
            return change(
                self.group.raft().change_membership(finish, false),
                MemberError::LossOfQuorum,
            )
            .await;
        }
        let state = self.group.state().borrow().clone();
        if state.cluster.is_none() {
            return Ok(true);
        }
        self.demote(&state).await?;
        let known: BTreeSet<u64> = state
            .nodes
            .values()
            .map(|node| node.raft_id)
            .filter(|id| *id != 0)
            .collect();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        for (id, member) in membership.nodes() {
            if known.contains(id) {
                continue;
            }
            tracing::info!(
                raft_id = id,
                node_id = member.node_id,
                "taking a member out whose node is gone"
            );
            if voters.contains(id) {
                self.remove_member(*id).await?;
            } else {
                let _turn = self.changes.lock().await;
                let out = ChangeMembers::RemoveNodes(BTreeSet::from([*id]));
                change(
                    self.group.raft().change_membership(out, true),
                    MemberError::LossOfQuorum,
                )
                .await?;
            }
        }
        Ok(true)
    }
}

/// Runs while this manager leads.
pub async fn repair(lead: Arc<Lead>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(error) = lead.repair_once().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot repair the Raft membership"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_must_remain_in_reach() {
        let voters = BTreeSet::from([1, 2, 3]);
        assert!(keeps_quorum(&voters, 3, &BTreeSet::from([1, 2])));
        assert!(keeps_quorum(&voters, 3, &BTreeSet::from([1, 2, 3])));
        assert!(!keeps_quorum(&voters, 3, &BTreeSet::from([1, 3])));
        assert!(!keeps_quorum(&BTreeSet::from([1]), 1, &BTreeSet::from([1])));
    }
}
