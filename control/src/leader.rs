//! What a manager does while it leads. Each loop reads the applied state and writes by proposals; none calls another.
//!
//! | loop | reads | writes |
//! |---|---|---|
//! | [`planner`] | state | `PlanTasks`, `RankIngressAddresses` |
//! | [`dispatcher`] | state, sessions | assignments to nodes |
//! | [`reports`] | what nodes report | `ReportTasks`, `ReportNode` |
//! | [`liveness`] | when nodes were last heard | `ReportNode` |
//! | [`members`] | state, Raft membership | Raft membership |
//! | [`rotation`] | state | `FinishRootRotation` |

pub mod dispatcher;
pub mod ledger;
pub mod liveness;
pub mod members;
pub mod planner;
pub mod reports;
pub mod rotation;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::manager::Propose;
use crate::raft::group::Group;
use dispatcher::Dispatcher;
use reports::News;

/// Reports waiting at most; a full queue makes the sessions wait, and so the nodes.
const NEWS: usize = 1024;
/// A leader without a quorum for this long gives its sessions up, so that nodes look for another. Longer than the
/// lease: a short stall must not cost every session.
const LOST_QUORUM: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// The leader's side of this manager; idle while another one leads.
pub struct Lead {
    group: Arc<Group>,
    dispatcher: Arc<Dispatcher>,
    news: tokio::sync::Mutex<mpsc::Receiver<News>>,
    /// One change of the Raft membership at a time.
    changes: tokio::sync::Mutex<()>,
}

impl Lead {
    pub fn new(group: Arc<Group>) -> Lead {
        let (sender, news) = mpsc::channel(NEWS);
        Lead {
            group,
            dispatcher: Arc::new(Dispatcher::new(sender)),
            news: tokio::sync::Mutex::new(news),
            changes: tokio::sync::Mutex::new(()),
        }
    }

    pub fn dispatcher(&self) -> &Arc<Dispatcher> {
        &self.dispatcher
    }

    /// Leads whenever this member is elected. Runs for ever.
    pub async fn run(self: Arc<Self>) {
        let mut leader = self.group.leader();
        loop {
            let own = self.group.raft_id();
            if leader
                .wait_for(|leader| leader.as_ref().is_some_and(|l| l.raft_id == own))
                .await
                .is_err()
            {
                return;
            }
            // The first thing a leader needs is a state that holds all that earlier leaders committed.
            if self.group.barrier().await.is_err() || !self.group.leads() {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            tracing::info!(raft_id = own, "this manager leads");
            self.dispatcher.begin();
            let mut loops = JoinSet::new();
            loops.spawn(planner::plan_and_propose(self.group.clone()));
            loops.spawn(dispatcher::dispatch(self.dispatcher.clone(), self.group.state()));
            loops.spawn(liveness::watch(self.group.clone(), self.dispatcher.clone()));
            loops.spawn(reports::propose(self.clone()));
            loops.spawn(members::repair(self.clone()));
            loops.spawn(rotation::finish(self.group.clone()));
            self.until_lost().await;
            loops.shutdown().await;
            self.dispatcher.end();
            tracing::info!(raft_id = own, "this manager no longer leads");
        }
    }

    async fn until_lost(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let metrics = self.group.raft().metrics().borrow().clone();
            let quorum = metrics.millis_since_quorum_ack.map(Duration::from_millis);
            if metrics.running_state.is_err()
                || !metrics.state.is_leader()
                || quorum.is_none_or(|q| q > LOST_QUORUM)
            {
                return;
            }
        }
    }
}
