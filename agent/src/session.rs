//! The node's side of the talk with its managers: assignments in, reports and acknowledgements out.
//!
//! Reads the session's events, `watch<Statuses>`, the network's applied index and the node's description; writes the
//! ledger, `watch<Desired>` and the list of managers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_control::model::{ItemKind, NodeDescription, TaskReport};
use skep_control::rpc::client::{NodeMessage, SessionConfig, SessionEvent, SessionHandle, session};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::core::desired::Desired;
use crate::io::ledger::{Ledger, LedgerError};
use crate::logs::Logs;
use crate::network::Network;
use crate::reconciler::{Statuses, chain};

/// A report that the managers' set does not show after this time is sent again.
const RESEND: Duration = Duration::from_secs(5);
const SEND: Duration = Duration::from_secs(10);

/// Whether a manager is heard, for `skep status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// `host:port` of the manager the session is with.
    pub manager: Option<String>,
    pub last_error: String,
}

/// What a session works with.
pub struct Setup {
    pub client: SessionConfig,
    pub ledger: Ledger,
    pub desired: watch::Sender<Desired>,
    pub managers: watch::Sender<Vec<String>>,
    pub statuses: watch::Receiver<Statuses>,
    pub network: watch::Receiver<Option<Arc<Network>>>,
    pub description: watch::Receiver<Option<NodeDescription>>,
    pub link: watch::Sender<Link>,
    pub logs: Logs,
    pub shutdown: CancellationToken,
}

struct Session {
    setup: Setup,
    connected: bool,
    /// State last reported of each task in this session.
    sent: BTreeMap<String, i32>,
    acknowledged: u64,
}

/// Runs until shutdown.
pub async fn run(mut setup: Setup) {
    let shutdown = setup.shutdown.clone();
    // A description that is known by now is in the first greeting already.
    setup.description.mark_unchanged();
    let mut session = Session {
        setup,
        connected: false,
        sent: BTreeMap::new(),
        acknowledged: 0,
    };
    tokio::select! {
        () = session.forever() => {}
        () = shutdown.cancelled() => {}
    }
}

impl Session {
    async fn forever(&mut self) {
        loop {
            let config = SessionConfig {
                identity: self.setup.client.identity.clone(),
                managers: self.setup.client.managers.clone(),
                hello: self.setup.client.hello.clone(),
            };
            let reason = self.one(session(config)).await;
            self.lost(reason.clone());
            tracing::warn!(%reason, "the session starts anew");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Until the stream no longer fits the set this node has, or the client ends.
    async fn one(&mut self, mut handle: SessionHandle) -> String {
        let (mut applied, mut problems, mut finding) = (None, None, None);
        let mut resend = tokio::time::interval(RESEND);
        loop {
            if applied.is_none() {
                let network = self.setup.network.borrow();
                applied = network.as_ref().map(|n| n.applied());
                problems = network.as_ref().map(|n| n.problems());
                finding = network.as_ref().map(|n| n.finding());
            }
            let told = tokio::select! {
                event = handle.events.recv() => match event {
                    Some(event) => self.hear(event, &handle).await,
                    None => Err("the session client ended".to_string()),
                },
                Ok(()) = self.setup.statuses.changed() => self.report(&handle).await,
                Ok(()) = changed(&mut applied) => self.acknowledge(&handle).await,
                Ok(()) = self.setup.network.changed() => self.acknowledge(&handle).await,
                Ok(()) = self.setup.description.changed() => self.greet(&handle).await,
                Ok(()) = changed(&mut problems) => self.greet(&handle).await,
                Ok(()) = changed(&mut finding) => self.greet(&handle).await,
                _ = resend.tick() => {
                    self.sent.clear();
                    self.report(&handle).await
                }
            };
            if let Err(reason) = told {
                return reason;
            }
        }
    }

    async fn hear(&mut self, event: SessionEvent, handle: &SessionHandle) -> Result<(), String> {
        match event {
            SessionEvent::Connected { manager } => {
                tracing::info!(%manager, "in session");
                self.connected = true;
                self.sent.clear();
                self.acknowledged = 0;
                self.setup.link.send_replace(Link {
                    manager: Some(manager),
                    last_error: String::new(),
                });
                self.report(handle).await?;
                self.acknowledge(handle).await
            }
            SessionEvent::Disconnected { reason } => {
                self.lost(reason);
                Ok(())
            }
            SessionEvent::Log(order) => {
                self.setup.logs.send(order);
                Ok(())
            }
            SessionEvent::Assignments(message) => {
                let folded = self.setup.desired.borrow().folded(&message);
                let desired = folded.map_err(|e| e.to_string())?;
                self.take(desired).await.map_err(|e| chain(&e))?;
                self.report(handle).await
            }
        }
    }

    /// Ledger first: what is acted on survives a crash.
    async fn take(&mut self, desired: Desired) -> Result<(), LedgerError> {
        let (ledger, copy) = (self.setup.ledger.clone(), desired.clone());
        let stored = tokio::task::spawn_blocking(move || ledger.store(&copy)).await;
        stored.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        if let Some(swarm) = desired.swarm().filter(|s| !s.managers.is_empty()) {
            let managers = swarm.managers.clone();
            self.setup.managers.send_if_modified(|known| {
                let changed = *known != managers;
                if changed {
                    *known = managers;
                }
                changed
            });
        }
        tracing::debug!(index = desired.index, items = desired.items.len(), "assignments");
        self.setup.desired.send_replace(desired);
        Ok(())
    }

    fn lost(&mut self, reason: String) {
        self.connected = false;
        tracing::warn!(%reason, "no session");
        self.setup.link.send_replace(Link {
            manager: None,
            last_error: reason,
        });
        // The next session begins with a COMPLETE set; until then nothing is deleted.
        self.setup.desired.send_if_modified(|desired| {
            desired.complete = false;
            // Nobody has to act on this.
            false
        });
    }

    /// Reports of tasks of which the managers know less than this node.
    async fn report(&mut self, handle: &SessionHandle) -> Result<(), String> {
        if !self.connected {
            return Ok(());
        }
        let statuses = self.setup.statuses.borrow_and_update().clone();
        let desired = self.setup.desired.borrow().clone();
        let mut reports = Vec::new();
        for item in desired.items.values() {
            let Some(ItemKind::Task(task)) = &item.kind else {
                continue;
            };
            let Some(status) = statuses.get(&task.id) else {
                continue;
            };
            let known = self
                .sent
                .get(&task.id)
                .copied()
                .unwrap_or(0)
                .max(task.observed_state);
            if status.state > known {
                self.sent.insert(task.id.clone(), status.state);
                reports.push(TaskReport {
                    task_id: task.id.clone(),
                    status: status.clone(),
                });
            }
        }
        if reports.is_empty() {
            return Ok(());
        }
        send(handle, NodeMessage::Report(reports)).await
    }

    async fn acknowledge(&mut self, handle: &SessionHandle) -> Result<(), String> {
        let applied = self
            .setup
            .network
            .borrow()
            .as_ref()
            .map_or(0, |n| *n.applied().borrow());
        if !self.connected || applied <= self.acknowledged {
            return Ok(());
        }
        self.acknowledged = applied;
        send(handle, NodeMessage::Applied(applied)).await
    }

    async fn greet(&mut self, handle: &SessionHandle) -> Result<(), String> {
        let network = self.setup.network.borrow().clone();
        let mut description = self.setup.description.borrow_and_update().clone();
        if let (Some(description), Some(network)) = (&mut description, &network) {
            let finding = network.finding().borrow().clone();
            (description.dsr, description.dsr_text) = (finding.dsr, finding.text);
        }
        self.setup.client.hello.description = description;
        let problems = network.map(|n| n.problems().borrow().join("; "));
        self.setup.client.hello.message = problems.unwrap_or_default();
        if !self.connected {
            return Ok(());
        }
        send(handle, NodeMessage::Hello(self.setup.client.hello.clone())).await
    }
}

async fn changed<T>(value: &mut Option<watch::Receiver<T>>) -> Result<(), watch::error::RecvError> {
    match value {
        Some(value) => value.changed().await,
        None => std::future::pending().await,
    }
}

/// A client that takes nothing for so long is started anew: neither side may wait for the other for ever.
async fn send(handle: &SessionHandle, message: NodeMessage) -> Result<(), String> {
    match tokio::time::timeout(SEND, handle.sender.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("the session client ended".to_string()),
        Err(_) => Err("the session client does not take messages".to_string()),
    }
}
