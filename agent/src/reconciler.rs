//! Makes this node's containers equal to its tasks: observe, plan, execute, report.
//!
//! Reads `watch<Desired>`, the network and Docker's events; writes `watch<Statuses>`. The loop owns what is observed;
//! slow Engine calls run beside it, at most one per task, and come back as a result. Nothing is decided by what an
//! event or a result says: both only name a container to look at again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_control::model::{NodeDescription, TaskStatus};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::backoff::Backoff;
use crate::core::desired::Desired;
use crate::core::plan::{Action, Millis, Observed, Plan, plan, status};
use crate::io::docker::{Engine, EngineError};
use crate::network::Network;

mod events;
mod work;

use events::Event;
use work::{Outcome, Worker};

/// What this node says of its tasks, by task id.
pub type Statuses = Arc<BTreeMap<String, TaskStatus>>;

/// Containers created or started at the same time: a large create must not stall the machine.
const PARALLEL_STARTS: usize = 4;
/// The Engine is looked at as a whole this often, whatever its events said.
const RELIST: Duration = Duration::from_secs(10);

/// What the reconciler is made of.
pub struct Setup {
    pub engine: Engine,
    pub state_dir: PathBuf,
    pub api_socket: String,
    pub desired: watch::Receiver<Desired>,
    pub network: watch::Receiver<Option<Arc<Network>>>,
    pub statuses: watch::Sender<Statuses>,
    /// Told whenever the Engine came (back).
    pub description: watch::Sender<Option<NodeDescription>>,
    pub shutdown: CancellationToken,
}

struct Finished {
    task_id: String,
    outcome: Outcome,
}

struct Reconciler {
    setup: Setup,
    worker: Arc<Worker>,
    observed: Observed,
    backoffs: BTreeMap<String, Backoff>,
    started: Instant,
    results: (mpsc::Sender<Finished>, mpsc::Receiver<Finished>),
    /// Twin networks may have become unused.
    tidy: bool,
}

/// Runs until shutdown; stops no container then.
pub async fn run(setup: Setup) {
    let worker = Worker {
        engine: setup.engine.clone(),
        state_dir: setup.state_dir.clone(),
        api_socket: setup.api_socket.clone(),
        desired: setup.desired.clone(),
        network: setup.network.clone(),
        permits: Semaphore::new(PARALLEL_STARTS),
    };
    let shutdown = setup.shutdown.clone();
    let reconciler = Reconciler {
        setup,
        worker: Arc::new(worker),
        observed: Observed::default(),
        backoffs: BTreeMap::new(),
        started: Instant::now(),
        // As many results as there can be tasks under way; a full queue only delays a worker.
        results: mpsc::channel(1024),
        tidy: true,
    };
    tokio::select! {
        () = reconciler.forever() => {}
        () = shutdown.cancelled() => {}
    }
}

impl Reconciler {
    async fn forever(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            match self.attach_to_engine().await {
                Ok(events) => {
                    backoff.reset();
                    let error = self.with_engine(events).await;
                    tracing::warn!(error = %chain(&error), "lost the Docker Engine");
                }
                Err(error) => tracing::info!(error = %chain(&error), "waiting for the Docker Engine"),
            }
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    }

    /// Subscribes first and lists then, so nothing falls between.
    async fn attach_to_engine(&mut self) -> Result<mpsc::Receiver<Event>, EngineError> {
        self.setup.engine.negotiate().await?;
        let info = self.setup.engine.info().await?;
        self.setup.description.send_replace(Some(info.description));
        let events = events::follow(&self.setup.engine)?;
        self.list().await?;
        Ok(events)
    }

    async fn list(&mut self) -> Result<(), EngineError> {
        let node_id = self.setup.desired.borrow().node_id.clone();
        self.observed.containers = self.setup.engine.containers(&node_id).await?;
        Ok(())
    }

    /// The loop while the Engine answers; ends with the error that ended it.
    async fn with_engine(&mut self, mut events: mpsc::Receiver<Event>) -> EngineError {
        let mut relist = tokio::time::interval(RELIST);
        relist.tick().await;
        loop {
            let plan = self.step();
            let wake = plan.wake_at.map(|at| self.started + Duration::from_millis(at));
            let seen = tokio::select! {
                changed = self.setup.desired.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    self.tidy = true;
                    Ok(())
                }
                Some(finished) = self.results.1.recv() => self.finish(finished).await,
                event = events.recv() => self.see(event, &mut events).await,
                () = sleep_until(wake) => Ok(()),
                _ = relist.tick() => {
                    self.tidy = true;
                    self.list().await
                }
            };
            if let Err(error) = seen {
                return error;
            }
        }
    }

    /// One round: plans, starts what is to be done, publishes what is to be said.
    fn step(&mut self) -> Plan {
        let desired = self.setup.desired.borrow_and_update().clone();
        let now = self.now();
        self.observed.note(&desired, now);
        let before = self.observed.statuses.clone();
        let plan = plan(&desired, &self.observed, now, wall());
        for action in &plan.actions {
            self.execute(action.clone(), &desired);
        }
        if self.observed.statuses != before {
            self.setup
                .statuses
                .send_replace(Arc::new(self.observed.statuses.clone()));
        }
        if self.tidy && self.observed.busy.is_empty() {
            self.tidy = false;
            self.tidy_networks();
        }
        plan
    }

    fn execute(&mut self, action: Action, desired: &Desired) {
        if let Action::Report { task_id, status } = action {
            tracing::debug!(task = %task_id, message = %status.message, err = %status.err, "task");
            self.observed.statuses.insert(task_id, status);
            return;
        }
        let task_id = action.task_id().to_string();
        self.observed.busy.insert(task_id.clone());
        let (worker, results, desired) = (self.worker.clone(), self.results.0.clone(), desired.clone());
        tokio::spawn(async move {
            let outcome = worker.perform(action, &desired).await;
            if results.send(Finished { task_id, outcome }).await.is_err() {
                tracing::debug!("a result after the end");
            }
        });
    }

    async fn finish(&mut self, finished: Finished) -> Result<(), EngineError> {
        let Finished { task_id, outcome } = finished;
        self.observed.busy.remove(&task_id);
        match outcome {
            Outcome::Look(container_id) => {
                self.backoffs.remove(&task_id);
                self.observed.retry_at.remove(&task_id);
                self.look_at(BTreeSet::from([container_id])).await
            }
            Outcome::Listens => {
                self.observed.listening.insert(task_id);
                Ok(())
            }
            Outcome::Drained => {
                self.observed.drained.insert(task_id);
                Ok(())
            }
            Outcome::Ended { state, message, err } => {
                let known = self.observed.statuses.get(&task_id).map_or(0, |s| s.state);
                if state as i32 > known {
                    let container = self.observed.containers.values().find(|c| c.task_id == task_id);
                    let status = status(state, message, err, container, wall());
                    tracing::info!(task = %task_id, state = %message, err = %status.err, "task ended");
                    self.observed.statuses.insert(task_id, status);
                    self.setup
                        .statuses
                        .send_replace(Arc::new(self.observed.statuses.clone()));
                }
                Ok(())
            }
            Outcome::Again { reason } => {
                let backoff = self.backoffs.entry(task_id.clone());
                let backoff =
                    backoff.or_insert(Backoff::new(Duration::from_millis(200), Duration::from_secs(10)));
                let delay = backoff.next(rand::random());
                tracing::warn!(task = %task_id, %reason, ?delay, "will try again");
                self.observed
                    .retry_at
                    .insert(task_id, self.now() + delay.as_millis() as Millis);
                Ok(())
            }
        }
    }

    /// One event and all that wait behind it: each container is looked at once.
    async fn see(
        &mut self,
        first: Option<Event>,
        events: &mut mpsc::Receiver<Event>,
    ) -> Result<(), EngineError> {
        let mut ids = BTreeSet::new();
        let mut next = first;
        loop {
            match next {
                Some(Event::Container(id)) => {
                    ids.insert(id);
                }
                Some(Event::Lost(error)) => return Err(error),
                None => return Err(events::ended()),
            }
            match events.try_recv() {
                Ok(event) => next = Some(event),
                Err(_) => break,
            }
        }
        self.look_at(ids).await
    }

    async fn look_at(&mut self, ids: BTreeSet<String>) -> Result<(), EngineError> {
        let node_id = self.setup.desired.borrow().node_id.clone();
        for id in ids {
            match self.setup.engine.container(&id, &node_id).await? {
                Some(container) => {
                    self.observed.containers.insert(id, container);
                }
                None => {
                    self.tidy |= self.observed.containers.remove(&id).is_some();
                }
            }
        }
        Ok(())
    }

    fn tidy_networks(&self) {
        let Some(network) = self.setup.network.borrow().clone() else {
            return;
        };
        tokio::spawn(async move {
            if let Err(error) = network.remove_unused_twins().await {
                tracing::warn!(error = %chain(&error), "remove unused networks");
            }
        });
    }

    fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Unix time in nanoseconds.
fn wall() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// An error with its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
