//! The node's side of node RPC: the session with the leader, and single calls.

mod single;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

use super::channel::{ANY_MANAGER, Dialer, Trust};
use super::gate::Gate;
use super::wire::service::dispatcher_client::DispatcherClient;
use super::wire::{
    LogOrder, MAX_MESSAGE, ManagerToNode, ManagerWord, NodeToManager, NodeWord, Nothing, Report,
};
use crate::ca::Identity;
use crate::model::*;

pub use single::{ClientError, NodeClient};

/// How long a manager may take to welcome or redirect.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Words to the manager that wait at most; the sender waits when it is full.
const WORDS: usize = 64;
/// Redirects followed in one round before the managers are asked in turn again.
const REDIRECTS: usize = 3;

/// What a node says of itself when a session opens, and again when it changes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    #[prost(message, optional, tag = "1")]
    pub description: Option<NodeDescription>,
    /// Routable address without port.
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(string, tag = "3")]
    pub data_path_address: String,
    /// What the node cannot do, in words (`Status.Message` of the node); empty = all is well.
    #[prost(string, tag = "4")]
    pub message: String,
}

pub struct SessionConfig {
    /// Read at every connect, so a renewed certificate is used from the next one on.
    pub identity: watch::Receiver<Identity>,
    /// `host:port`.
    pub managers: watch::Receiver<Vec<String>>,
    pub hello: Hello,
}

/// A running session client; dropping it ends the session.
pub struct SessionHandle {
    pub events: mpsc::Receiver<SessionEvent>,
    pub sender: mpsc::Sender<NodeMessage>,
}

#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// A session is open; the next assignments are COMPLETE.
    Connected {
        manager: String,
    },
    Assignments(Assignments),
    /// A manager wants the log of a container of this node.
    Log(LogOrder),
    /// Reports not yet taken are lost with the session: send the state of all tasks again after the next `Connected`.
    Disconnected {
        reason: String,
    },
}

#[expect(
    clippy::large_enum_variant,
    reason = "few exist at a time, and a box would hide in every match"
)]
#[derive(Clone, Debug)]
pub enum NodeMessage {
    Report(Vec<TaskReport>),
    /// The tables of this node hold all of the set with this index.
    Applied(u64),
    Hello(Hello),
}

/// Starts the session client: it reconnects for ever, trying all managers and following the leader.
pub fn session(config: SessionConfig) -> SessionHandle {
    let (events_sender, events) = mpsc::channel(64);
    let (sender, messages) = mpsc::channel(64);
    let dialer = Dialer::new(Trust::Member(config.identity), Arc::new(Gate::default()));
    let client = SessionClient {
        dialer,
        managers: config.managers,
        hello: config.hello,
        events: events_sender,
        messages,
    };
    tokio::spawn(client.run());
    SessionHandle { events, sender }
}

struct SessionClient {
    dialer: Dialer,
    managers: watch::Receiver<Vec<String>>,
    hello: Hello,
    events: mpsc::Sender<SessionEvent>,
    messages: mpsc::Receiver<NodeMessage>,
}

/// The handle was dropped.
struct Dropped;

/// A manager's first word.
enum Opened {
    Session(Box<Session>),
    Redirect(String),
}

struct Session {
    incoming: Streaming<ManagerToNode>,
    outgoing: mpsc::Sender<NodeToManager>,
    heartbeat: Duration,
}

impl SessionClient {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.round().await {
                Err(Dropped) => return,
                // A session that worked: look for the next leader at once.
                Ok(true) => pause = FIRST_PAUSE,
                Ok(false) => {}
            }
            // Between half and all of it, so that many nodes do not come back together.
            let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                () = self.events.closed() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks each manager once until one opens a session, and serves that. True if there was one.
    async fn round(&mut self) -> Result<bool, Dropped> {
        let mut managers = self.managers.borrow_and_update().clone();
        managers.shuffle(&mut rand::rng());
        let mut candidates = VecDeque::from(managers);
        let mut redirects = 0;
        while let Some(address) = candidates.pop_front() {
            match self.open(&address).await {
                Ok(Opened::Session(session)) => {
                    self.discard_stale()?;
                    self.say(SessionEvent::Connected { manager: address }).await?;
                    let reason = self.serve(*session).await?;
                    self.say(SessionEvent::Disconnected { reason }).await?;
                    return Ok(true);
                }
                Ok(Opened::Redirect(leader)) if !leader.is_empty() && redirects < REDIRECTS => {
                    redirects += 1;
                    candidates.push_front(leader);
                }
                Ok(Opened::Redirect(_)) => {}
                Err(status) => {
                    tracing::debug!(address, error = &status as &dyn std::error::Error, "no session")
                }
            }
        }
        Ok(false)
    }

    async fn say(&self, event: SessionEvent) -> Result<(), Dropped> {
        self.events.send(event).await.map_err(|_| Dropped)
    }

    /// Words meant for the session before: the node says all that matters again in the new one.
    fn discard_stale(&mut self) -> Result<(), Dropped> {
        loop {
            match self.messages.try_recv() {
                Ok(NodeMessage::Hello(hello)) => self.hello = hello,
                Ok(NodeMessage::Report(_) | NodeMessage::Applied(_)) => {}
                Err(mpsc::error::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(Dropped),
            }
        }
    }

    async fn open(&self, address: &str) -> Result<Opened, Status> {
        let channel = self
            .dialer
            .channel(address, ANY_MANAGER)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut client = DispatcherClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let (outgoing, words) = mpsc::channel(WORDS);
        let hello = word(NodeWord::Hello(self.hello.clone()));
        outgoing
            .try_send(hello)
            .map_err(|_| Status::internal("a new queue is full"))?;
        let opening = async {
            let mut incoming = client.session(ReceiverStream::new(words)).await?.into_inner();
            let first = incoming.message().await?.and_then(|message| message.word);
            match first {
                Some(ManagerWord::Welcome(welcome)) => Ok(Opened::Session(Box::new(Session {
                    incoming,
                    outgoing,
                    heartbeat: Duration::from_millis(welcome.heartbeat_period_ms.max(100)),
                }))),
                Some(ManagerWord::Redirect(redirect)) => Ok(Opened::Redirect(redirect.leader)),
                Some(ManagerWord::Assignments(_) | ManagerWord::Log(_)) | None => {
                    Err(Status::internal("a session begins with Welcome"))
                }
            }
        };
        tokio::time::timeout(WELCOME_TIMEOUT, opening)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the manager did not welcome in time")))
    }

    /// Serves a session until it ends: the reason.
    async fn serve(&mut self, session: Session) -> Result<String, Dropped> {
        let Session {
            mut incoming,
            outgoing,
            heartbeat,
        } = session;
        // Of their own, for this loop waits while the agent is busy with an event.
        let period = watch::Sender::new(heartbeat);
        let beats = heartbeats(outgoing.clone(), period.subscribe());
        let _beating = AbortOnDropHandle::new(tokio::spawn(beats));
        let reason = loop {
            tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(ManagerToNode { word: Some(ManagerWord::Assignments(assignments)) })) => {
                        self.say(SessionEvent::Assignments(assignments)).await?;
                    }
                    Ok(Some(ManagerToNode { word: Some(ManagerWord::Log(order)) })) => {
                        self.say(SessionEvent::Log(order)).await?;
                    }
                    Ok(Some(ManagerToNode { word: Some(ManagerWord::Redirect(_)) })) => {
                        break "the manager no longer leads".to_string();
                    }
                    Ok(Some(ManagerToNode { word: Some(ManagerWord::Welcome(welcome)) })) => {
                        period.send_replace(Duration::from_millis(welcome.heartbeat_period_ms.max(100)));
                    }
                    Ok(Some(ManagerToNode { word: None })) => {}
                    Ok(None) => break "the manager closed the session".to_string(),
                    Err(status) => break status.message().to_string(),
                },
                message = self.messages.recv() => {
                    let Some(message) = message else {
                        return Err(Dropped);
                    };
                    if outgoing.send(self.spoken(message)).await.is_err() {
                        break "the session broke".to_string();
                    }
                }
                () = self.events.closed() => return Err(Dropped),
            }
        };
        Ok(reason)
    }

    fn spoken(&mut self, message: NodeMessage) -> NodeToManager {
        word(match message {
            NodeMessage::Report(reports) => NodeWord::Report(Report { reports }),
            NodeMessage::Applied(index) => NodeWord::Applied(index),
            NodeMessage::Hello(hello) => {
                self.hello = hello.clone();
                NodeWord::Hello(hello)
            }
        })
    }
}

fn word(word: NodeWord) -> NodeToManager {
    NodeToManager { word: Some(word) }
}

/// Ends with the session's queue. Beats at once when the period changed.
async fn heartbeats(outgoing: mpsc::Sender<NodeToManager>, mut period: watch::Receiver<Duration>) {
    loop {
        let now = *period.borrow_and_update();
        tokio::select! {
            // swarmkit spreads them by a tenth.
            () = tokio::time::sleep(now.mul_f64(rand::random_range(0.9..1.0))) => {}
            Ok(()) = period.changed() => {}
        }
        if outgoing
            .send(word(NodeWord::Heartbeat(Nothing {})))
            .await
            .is_err()
        {
            return;
        }
    }
}
