//! The sessions of nodes with this leader: what each was sent, what it applied, when it was last heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ledger::{Ledger, release};
use super::reports::News;
use crate::core::assign::{assign, withdrawn};
use crate::core::state::ClusterState;
use crate::model::*;
use crate::rpc::client::Hello;
use crate::rpc::wire::{LogOrder, ManagerWord, NodeWord, Redirect, Welcome};

/// Messages that may wait for a slow node; when they do, it gets nothing more until it took one, and then the
/// difference to the newest state.
const WORDS: usize = 16;
/// When to look again at a node that was too slow.
const RETRY: Duration = Duration::from_millis(50);
/// swarmkit's default; `ClusterSpec` may say another.
const HEARTBEAT: Duration = Duration::from_secs(5);

pub struct Dispatcher {
    inner: Mutex<Inner>,
    wake: Notify,
    news: mpsc::Sender<News>,
}

#[derive(Default)]
struct Inner {
    /// When this manager began to lead, or the heartbeat period changed; absent while it does not lead.
    since: Option<Instant>,
    next_id: u64,
    heartbeat: Option<Duration>,
    sessions: BTreeMap<String, Session>,
    /// When each node was last heard, sessions that ended included.
    heard: BTreeMap<String, Instant>,
    released: BTreeSet<String>,
    /// Nodes that said they leave: their agents may try a last session before they stop.
    left: BTreeSet<String>,
    /// Raised whenever `released` changes.
    releases: u64,
}

struct Session {
    id: u64,
    words: mpsc::Sender<ManagerWord>,
    ended: CancellationToken,
    ledger: Ledger,
    /// Absent before the COMPLETE set.
    sent: Option<Sent>,
    /// `Inner::releases` that the last set was computed with.
    releases: u64,
}

struct Sent {
    items: Items,
    index: u64,
}

/// The stream's side of a session.
pub struct Opened {
    pub id: u64,
    pub words: mpsc::Receiver<ManagerWord>,
    pub ended: CancellationToken,
}

/// How a node is, as far as its heartbeats tell.
pub struct Pulse {
    /// Last heard; absent if never by this leader.
    pub heard: Option<Instant>,
    pub connected: bool,
}

impl Dispatcher {
    pub fn new(news: mpsc::Sender<News>) -> Dispatcher {
        Dispatcher {
            inner: Mutex::new(Inner::default()),
            wake: Notify::new(),
            news,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes sessions from now on.
    pub fn begin(&self) {
        let mut inner = self.lock();
        *inner = Inner {
            since: Some(Instant::now()),
            // Of an earlier term's session, whose stream may end only now.
            next_id: inner.next_id,
            ..Default::default()
        };
    }

    /// Ends all sessions: nodes look for the new leader.
    pub fn end(&self) {
        let mut inner = self.lock();
        inner.since = None;
        for (_, session) in std::mem::take(&mut inner.sessions) {
            session.finish();
        }
    }

    /// Opens a session, ending an older one of the same node; `None` while another manager leads.
    pub fn open(&self, node_id: &str, hello: Hello) -> Option<Opened> {
        let (words, receiver) = mpsc::channel(WORDS);
        let ended = CancellationToken::new();
        let mut inner = self.lock();
        inner.since?;
        if inner.left.contains(node_id) {
            return None;
        }
        inner.next_id += 1;
        let id = inner.next_id;
        let heartbeat = inner.heartbeat.unwrap_or(HEARTBEAT);
        let welcome = welcome(heartbeat);
        // Neither can fail: the queues are new, or as long as nodes may be.
        if words.try_send(welcome).is_err() || !self.tell(News::Node(opened(node_id, hello))) {
            return None;
        }
        let session = Session {
            id,
            words,
            ended: ended.clone(),
            ledger: Ledger::default(),
            sent: None,
            releases: 0,
        };
        inner.heard.insert(node_id.to_string(), Instant::now());
        if let Some(older) = inner.sessions.insert(node_id.to_string(), session) {
            older.finish();
        }
        drop(inner);
        self.wake.notify_one();
        Some(Opened {
            id,
            words: receiver,
            ended,
        })
    }

    fn tell(&self, news: News) -> bool {
        self.news.try_send(news).is_ok()
    }

    /// A node said something in its session.
    pub async fn hear(&self, node_id: &str, id: u64, word: NodeWord) {
        {
            let mut inner = self.lock();
            let Some(session) = inner.sessions.get_mut(node_id).filter(|session| session.id == id) else {
                return;
            };
            if let NodeWord::Applied(index) = &word
                && session.ledger.acknowledge(*index)
            {
                self.wake.notify_one();
            }
            inner.heard.insert(node_id.to_string(), Instant::now());
        }
        let news = match word {
            NodeWord::Heartbeat(_) | NodeWord::Applied(_) => return,
            NodeWord::Report(report) => News::Tasks {
                node_id: node_id.to_string(),
                session: id,
                reports: report.reports,
            },
            NodeWord::Hello(hello) => News::Node(opened(node_id, hello)),
        };
        if self.news.send(news).await.is_err() {
            tracing::debug!(node_id, "a report came while the manager stopped");
        }
    }

    /// The session's stream ended. The node is not down by that: its heartbeats decide.
    pub fn close(&self, node_id: &str, id: u64) {
        let mut inner = self.lock();
        if inner
            .sessions
            .get(node_id)
            .is_some_and(|session| session.id == id)
            && let Some(session) = inner.sessions.remove(node_id)
        {
            session.finish();
            // It no longer holds up the release of tasks.
            self.wake.notify_one();
        }
    }

    /// Ends the session if it is still that one, so that the node says everything again in a new one.
    pub fn reset(&self, node_id: &str, id: u64) {
        self.close(node_id, id);
    }

    /// Ends a node's session, whichever it is.
    pub fn drop_session(&self, node_id: &str) {
        if let Some(session) = self.lock().sessions.remove(node_id) {
            session.finish();
            self.wake.notify_one();
        }
    }

    /// The node leaves the swarm: its session ends and it gets no other.
    pub fn say_goodbye(&self, node_id: &str) {
        self.lock().left.insert(node_id.to_string());
        self.drop_session(node_id);
    }

    /// Has a node send a log. False: it is in no session here, or has not taken what waits for it.
    pub fn order_log(&self, node_id: &str, order: LogOrder) -> bool {
        let inner = self.lock();
        let session = inner.sessions.get(node_id);
        session.is_some_and(|session| session.words.try_send(ManagerWord::Log(order)).is_ok())
    }

    /// When this manager began to lead.
    pub fn since(&self) -> Option<Instant> {
        self.lock().since
    }

    pub fn pulse(&self, node_id: &str) -> Pulse {
        let inner = self.lock();
        Pulse {
            heard: inner.heard.get(node_id).copied(),
            connected: inner.sessions.contains_key(node_id),
        }
    }

    /// Sends every session what changed for it. True: a node was too slow, look again soon.
    fn round(&self, state: &ClusterState) -> bool {
        let mut inner = self.lock();
        inner.beat(heartbeat_period(state));
        inner.heard.retain(|node_id, _| state.nodes.contains_key(node_id));
        inner.left.retain(|node_id| state.nodes.contains_key(node_id));
        let inner = &mut *inner;
        let tasks = withdrawn(state).into_iter().map(|(task_id, _, at)| (task_id, at));
        let clean: Vec<u64> = inner
            .sessions
            .values()
            .map(|session| session.ledger.clean())
            .collect();
        if release(&mut inner.released, tasks, clean) {
            inner.releases += 1;
        }
        let mut slow = false;
        for (node_id, session) in &mut inner.sessions {
            let current = session.ledger.computed() == state.index && session.releases == inner.releases;
            // A node that is not in the state was removed; an empty set would make it stop everything.
            if (current && session.sent.is_some()) || !state.nodes.contains_key(node_id) {
                continue;
            }
            let items = assign(state, node_id, &inner.released);
            if session.send(items, state.index) {
                session.releases = inner.releases;
            } else {
                slow = true;
            }
        }
        slow
    }
}

impl Inner {
    /// Tells all sessions of another heartbeat period. Nodes have as long as after a change of leader to follow it.
    fn beat(&mut self, period: Duration) {
        let before = self.heartbeat.replace(period);
        if before.is_none_or(|before| before == period) {
            return;
        }
        self.since = self.since.map(|_| Instant::now());
        let word = welcome(period);
        for (node_id, session) in &self.sessions {
            // One whose queue is full is dropped by its heartbeats, and welcomed anew.
            if session.words.try_send(word.clone()).is_err() {
                tracing::debug!(node_id, "a slow node does not hear of the new heartbeat period");
            }
        }
    }
}

fn welcome(period: Duration) -> ManagerWord {
    ManagerWord::Welcome(Welcome {
        heartbeat_period_ms: period.as_millis() as u64,
    })
}

impl Session {
    /// Sends the difference to what was sent before. False: the node has not taken what waits for it.
    fn send(&mut self, items: Items, index: u64) -> bool {
        let message = match &self.sent {
            None => Assignments {
                kind: AssignmentsKind::Complete as i32,
                applies_to: 0,
                results_in: index,
                changes: diff(&Items::new(), &items),
            },
            Some(sent) => Assignments {
                kind: AssignmentsKind::Incremental as i32,
                applies_to: sent.index,
                results_in: index,
                changes: diff(&sent.items, &items),
            },
        };
        let nothing = self.sent.is_some() && message.changes.is_empty();
        if nothing {
            self.ledger.compute(index, false);
            return true;
        }
        if self.words.try_send(ManagerWord::Assignments(message)).is_err() {
            return false;
        }
        self.ledger.compute(index, true);
        self.sent = Some(Sent { items, index });
        true
    }

    fn finish(self) {
        // A full queue ends with the stream just the same.
        if self
            .words
            .try_send(ManagerWord::Redirect(Redirect::default()))
            .is_err()
        {
            tracing::debug!("a session ended without a word");
        }
        self.ended.cancel();
    }
}

fn opened(node_id: &str, hello: Hello) -> Box<ReportNode> {
    let told = |text: String| (!text.is_empty()).then_some(text);
    Box::new(ReportNode {
        id: node_id.to_string(),
        state: Some(NodeState::Ready as i32),
        message: Some(hello.message),
        description: hello.description,
        address: told(hello.address),
        data_path_address: told(hello.data_path_address),
        ..Default::default()
    })
}

/// How often nodes say that they live.
pub fn heartbeat_period(state: &ClusterState) -> Duration {
    let nanos = state
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.spec.heartbeat_period);
    nanos
        .and_then(|nanos| u64::try_from(nanos).ok())
        .filter(|n| *n > 0)
        .map_or(HEARTBEAT, Duration::from_nanos)
}

/// Dispatches at every change of the state, of the sessions and of what they acknowledged.
pub async fn dispatch(dispatcher: Arc<Dispatcher>, mut state: watch::Receiver<Arc<ClusterState>>) {
    loop {
        let now = state.borrow_and_update().clone();
        let slow = dispatcher.round(&now);
        tokio::select! {
            changed = state.changed() => if changed.is_err() {
                return;
            },
            () = dispatcher.wake.notified() => {}
            () = tokio::time::sleep(RETRY), if slow => {}
        }
    }
}
