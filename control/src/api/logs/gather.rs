//! One client's logs of several tasks: each is read by itself, and a task that comes later joins in while the client
//! follows.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::source::Source;
use crate::api::Api;
use crate::api::answer::BoxError;
use crate::api::core::log::{Rewriter, STDERR, SYSTEM_ERROR, Style, details};
use crate::core::state::ClusterState;
use crate::manager::{LogError, Manager};
use crate::model::{Task, TaskState};

/// Whose logs.
pub enum Selector {
    Service(String),
    Task(String),
}

/// What a client asked for, and where its bytes go.
pub struct Gather {
    pub api: Arc<Api>,
    pub manager: Arc<Manager>,
    pub own_node: String,
    pub selector: Selector,
    /// Of the Engine's `/containers/{id}/logs`.
    pub query: String,
    pub details: bool,
    pub timestamps: bool,
    pub follow: bool,
    pub tty: bool,
    pub sender: mpsc::Sender<Result<Bytes, BoxError>>,
}

/// What is known of the selected tasks.
struct Selected {
    tasks: Vec<Arc<Task>>,
    /// More may come.
    open: bool,
}

impl Gather {
    /// Until all logs have ended, the client has gone, or this API stops.
    pub async fn run(self) {
        let (closed, shutdown) = (self.sender.clone(), self.api.shutdown.clone());
        tokio::select! {
            () = Arc::new(self).read_all() => {}
            () = closed.closed() => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn read_all(self: Arc<Self>) {
        let mut states = self.manager.state();
        let mut known = BTreeSet::new();
        let mut reads: JoinSet<Result<(), LogError>> = JoinSet::new();
        let mut failures = BTreeSet::new();
        loop {
            let state = states.borrow_and_update().clone();
            let selected = self.selected(&state);
            for task in &selected.tasks {
                if self.is_readable(task) && known.insert(task.id.clone()) {
                    reads.spawn(Arc::clone(&self).read(Arc::clone(task)));
                } else if task.node_id.is_empty()
                    && matches!(self.selector, Selector::Task(_))
                    && !self.follow
                {
                    failures.insert(format!("task {} has not been scheduled", task.id));
                }
            }
            let waits = self.follow && selected.open;
            tokio::select! {
                Some(ended) = reads.join_next() => if let Ok(Err(error)) = ended {
                    failures.insert(error.to_string());
                },
                changed = states.changed(), if waits => if changed.is_err() { break },
                else => break,
            }
        }
        if !failures.is_empty() && !self.follow {
            self.say_incomplete(failures.into_iter().collect()).await;
        }
    }

    fn selected(&self, state: &ClusterState) -> Selected {
        match &self.selector {
            Selector::Service(id) => Selected {
                tasks: state
                    .tasks
                    .values()
                    .filter(|task| task.service_id == *id)
                    .cloned()
                    .collect(),
                open: state.services.contains_key(id),
            },
            Selector::Task(id) => {
                let task = state.tasks.get(id).cloned();
                Selected {
                    open: task.as_ref().is_some_and(|task| {
                        task.status.container.is_none() && task.status.state() <= TaskState::Running
                    }),
                    tasks: task.into_iter().collect(),
                }
            }
        }
    }

    /// Swarm leaves out what does not run yet, unless it follows.
    fn is_readable(&self, task: &Task) -> bool {
        let began = self.follow
            || matches!(self.selector, Selector::Task(_))
            || task.status.state() >= TaskState::Running;
        began && !task.node_id.is_empty() && task.status.container.is_some()
    }

    async fn read(self: Arc<Self>, task: Arc<Task>) -> Result<(), LogError> {
        let result = self.copy(&task).await;
        if let Err(error) = &result
            && self.follow
        {
            // The others go on, so this cannot wait for the end.
            let mut notice = Vec::new();
            let style = Style {
                timestamps: false,
                ..self.style(&task)
            };
            style.write(
                STDERR,
                format!("{}\n", incomplete(&[error.to_string()])).as_bytes(),
                &mut notice,
            );
            self.say(notice).await;
        }
        result
    }

    async fn copy(&self, task: &Task) -> Result<(), LogError> {
        let container = task
            .status
            .container
            .as_ref()
            .map_or("", |status| &status.container_id);
        let mut source = if task.node_id == self.own_node {
            Source::here(&self.api.engine, container, &self.query).await?
        } else {
            let pieces = self
                .manager
                .node_log(&task.node_id, container, &self.query)
                .await?;
            Source::There(pieces)
        };
        let mut rewriter = Rewriter::new(self.style(task));
        let ended = loop {
            match source.next().await {
                None => break Ok(()),
                Some(Err(error)) => break Err(error),
                Some(Ok(piece)) => self.say(rewriter.take(&piece)).await,
            }
        };
        self.say(rewriter.end()).await;
        ended
    }

    fn style(&self, task: &Task) -> Style {
        Style {
            details: if self.details { details(task) } else { Vec::new() },
            timestamps: self.timestamps,
            tty: self.tty,
        }
    }

    /// As Swarm ends a stream that lacks something (swarmkit manager/logbroker/subscription.go Err, moby
    /// daemon/server/httputils/logstream). The CLI prints what came before and fails with this.
    async fn say_incomplete(&self, reasons: Vec<String>) {
        let text = format!(
            "Error grabbing logs: rpc error: code = Unknown desc = {}\n",
            incomplete(&reasons)
        );
        let style = Style {
            details: Vec::new(),
            timestamps: false,
            tty: self.tty,
        };
        let mut frame = Vec::new();
        style.write(SYSTEM_ERROR, text.as_bytes(), &mut frame);
        self.say(frame).await;
    }

    async fn say(&self, bytes: Vec<u8>) {
        if !bytes.is_empty() && self.sender.send(Ok(Bytes::from(bytes))).await.is_err() {
            // `run` ends at the same moment.
            tracing::debug!("the reader of a log went away");
        }
    }
}

fn incomplete(reasons: &[String]) -> String {
    format!(
        "warning: incomplete log stream. some logs could not be retrieved for the following reasons: {}",
        reasons.join(", ")
    )
}
