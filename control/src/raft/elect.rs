//! Elections. openraft has no pre-vote in this line, so its own elections are off: a member that hears no leader asks
//! the others whether they hear one, and stands only when a quorum hears none and its log is good enough to win.
//! So a member that was cut off and returns topples nobody (Ongaro's thesis, 9.6).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::group::Group;
use super::types::*;
use crate::rpc::channel::within;
use crate::rpc::wire::PreVoteRequest;

/// Milliseconds would do for a member in reach; one that is not must not hold the election up.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(50);

/// When the leader was last heard, and when the election timer last started anew.
#[derive(Default)]
pub struct Hearing {
    times: Mutex<(Option<Instant>, Option<Instant>)>,
}

impl Hearing {
    /// The leader spoke.
    pub fn heard(&self) {
        let now = Instant::now();
        *self.lock() = (Some(now), Some(now));
    }

    /// Somebody was voted for: give it time to win.
    pub fn voted(&self) {
        self.lock().1 = Some(Instant::now());
    }

    /// Whether the leader spoke not longer ago than that.
    pub fn within(&self, period: Duration) -> bool {
        self.lock().0.is_some_and(|at| at.elapsed() <= period)
    }

    fn timer(&self) -> Option<Instant> {
        self.lock().1
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Option<Instant>, Option<Instant>)> {
        self.times
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One member's answer. A member that did not answer has none.
pub struct Answer {
    pub raft_id: u64,
    pub hears_leader: bool,
    pub last_log_id: Option<LogId>,
}

/// Whether to stand: a majority of every voter set (two while the membership changes) hears no leader and has no
/// longer log than ours. `own` counts as such an answer.
pub fn may_stand(own: u64, own_last: Option<LogId>, voters: &[BTreeSet<u64>], answers: &[Answer]) -> bool {
    let willing: BTreeSet<u64> = answers
        .iter()
        .filter(|answer| !answer.hears_leader && answer.last_log_id <= own_last)
        .map(|answer| answer.raft_id)
        .chain([own])
        .collect();
    voters
        .iter()
        .all(|set| set.intersection(&willing).count() > set.len() / 2)
}

/// Runs until the Raft core stops.
pub async fn elections(group: Arc<Group>) {
    let mut start = Instant::now();
    let mut timeout = draw(&group);
    loop {
        tokio::time::sleep(LOOK).await;
        let metrics = group.raft().metrics().borrow().clone();
        if metrics.running_state.is_err() {
            return;
        }
        let membership = metrics.membership_config.membership().clone();
        let voters = membership.get_joint_config();
        let stands = voters.iter().any(|set| set.contains(&group.raft_id()));
        if group.leads() || !stands {
            start = Instant::now();
            continue;
        }
        let alone = voters.iter().all(|set| set.len() == 1);
        let since = group.hearing().timer().map_or(start, |heard| heard.max(start));
        if !alone && since.elapsed() < timeout {
            continue;
        }
        if metrics.state.is_leader() && !alone {
            // Leads, but has lost its quorum: openraft keeps trying by itself, and nobody else can be asked.
            start = Instant::now();
            continue;
        }
        if alone || pre_vote(&group, &membership).await {
            tracing::info!(raft_id = group.raft_id(), "standing for election");
            if let Err(error) = group.raft().trigger().elect().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the Raft core does not run"
                );
                return;
            }
        }
        start = Instant::now();
        timeout = draw(&group);
    }
}

fn draw(group: &Group) -> Duration {
    let timing = group.timing();
    rand::random_range(timing.election_min..timing.election_max)
}

async fn pre_vote(group: &Group, membership: &Membership) -> bool {
    let own_last = group.last_log_id();
    let voters = membership.get_joint_config();
    let others: BTreeSet<u64> = voters
        .iter()
        .flatten()
        .copied()
        .filter(|id| *id != group.raft_id())
        .collect();
    let asked = others
        .into_iter()
        .filter_map(|id| membership.get_node(&id).map(|member| ask(group, id, member)));
    let answers: Vec<Answer> = join_all(asked).await.into_iter().flatten().collect();
    // Answers take time, and the leader may have spoken since.
    !group.hears_leader() && may_stand(group.raft_id(), own_last, voters, &answers)
}

async fn ask(group: &Group, raft_id: u64, member: &Member) -> Option<Answer> {
    let mut client = group.peers().raft(member).ok()?;
    let call = client.pre_vote(within(PreVoteRequest {}, ASK_TIMEOUT));
    let reply = tokio::time::timeout(ASK_TIMEOUT, call)
        .await
        .ok()?
        .ok()?
        .into_inner();
    Some(Answer {
        raft_id,
        hears_leader: reply.hears_leader,
        last_log_id: reply.last_log_id.map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    fn log_id(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId::new(term, 1), index))
    }

    fn answer(raft_id: u64, hears_leader: bool, last_log_id: Option<LogId>) -> Answer {
        Answer {
            raft_id,
            hears_leader,
            last_log_id,
        }
    }

    #[test]
    fn standing_needs_a_majority_that_hears_no_leader_and_is_not_ahead() {
        let voters = [BTreeSet::from([1, 2, 3])];
        let stand = |answers: &[Answer]| may_stand(1, log_id(2, 10), &voters, answers);
        assert!(!stand(&[]));
        assert!(stand(&[answer(2, false, log_id(2, 10))]));
        assert!(!stand(&[
            answer(2, true, log_id(2, 10)),
            answer(3, true, log_id(2, 10))
        ]));
        assert!(!stand(&[answer(2, false, log_id(2, 11))]));
        assert!(!stand(&[answer(2, false, log_id(3, 1))]));
        assert!(stand(&[
            answer(2, true, log_id(2, 9)),
            answer(3, false, log_id(2, 9))
        ]));
        assert!(!stand(&[answer(9, false, None)]));
    }

    #[test]
    fn both_sets_of_a_joint_membership_count() {
        let voters = [BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 4, 5])];
        let none = |id| answer(id, false, None);
        assert!(!may_stand(1, log_id(1, 1), &voters, &[none(2)]));
        assert!(may_stand(1, log_id(1, 1), &voters, &[none(2), none(5)]));
    }
}
