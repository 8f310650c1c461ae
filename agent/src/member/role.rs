//! Keeps this node's certificate and manager what the swarm wants them to be: renewals, promotion and demotion, a new
//! root, and the lock of what a manager stores. Tasks and network do not notice.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_control::ca::{Identity, InvalidKey, UnlockKey};
use skep_control::core::root;
use skep_control::manager::Manager;
use skep_control::model::Role;
use skep_control::rpc::client::{ClientError, NodeClient};
use skep_control::run::{self, JoinError, RunError, RunningManager};
use tokio::sync::{Mutex, watch};

use crate::core::backoff::Backoff;
use crate::core::desired::Desired;
use crate::core::role::{Own, Step, next};
use crate::reconciler::chain;

/// The clock may be set, so the time is looked at anew at least this often.
const LOOK: Duration = Duration::from_secs(3600);

/// The manager of this node, shared with whoever ends the membership.
pub type Running = Arc<Mutex<Option<RunningManager>>>;

pub struct Setup {
    pub state_dir: PathBuf,
    pub client: Arc<NodeClient>,
    pub identity: watch::Sender<Identity>,
    pub desired: watch::Receiver<Desired>,
    pub managers: watch::Receiver<Vec<String>>,
    pub manager: watch::Sender<Option<Arc<Manager>>>,
    pub running: Running,
    /// What the stored keys are locked with now.
    pub lock: Option<UnlockKey>,
}

#[derive(Debug, thiserror::Error)]
enum RoleError {
    #[error("renew the node's certificate")]
    Renew(#[source] ClientError),
    #[error("the manager asked does not know yet what this node is to be")]
    Early,
    #[error("store the node's certificate")]
    Store(#[source] RunError),
    #[error("start the manager of this node")]
    Start(#[source] RunError),
    #[error("become a member of Raft")]
    Enter(#[source] JoinError),
    #[error("end the manager of this node")]
    Stop(#[source] RunError),
    #[error("read the swarm's unlock key")]
    Key(#[source] InvalidKey),
    #[error("lock or open what this manager stored")]
    Lock(#[source] RunError),
}

/// Runs until it is dropped.
pub async fn run(mut setup: Setup) {
    let mut backoff = Backoff::new(Duration::from_millis(300), Duration::from_secs(60));
    let mut chance: f64 = rand::random();
    loop {
        let due_in = setup.due_in(chance);
        let own = setup.own(due_in.is_zero()).await;
        let step = next(&own, setup.desired.borrow_and_update().swarm());
        if step != Step::Rest {
            tracing::info!(?step, "role of this node");
        }
        let done = match step {
            Step::Renew => setup.renew().await,
            Step::Start(raft_id) => setup.start(raft_id).await,
            Step::Enter => setup.enter().await,
            Step::Stop => setup.stop().await,
            Step::Rest => setup.relock().await,
        };
        match (done, step) {
            (Ok(()), Step::Rest) => {
                backoff.reset();
                setup.changed(due_in.min(LOOK)).await;
            }
            (Ok(()), Step::Renew) => chance = rand::random(),
            (Ok(()), _) => {}
            (Err(error), _) => {
                tracing::warn!(error = %chain(&error), "role of this node");
                tokio::time::sleep(backoff.next(rand::random())).await;
            }
        }
    }
}

impl Setup {
    /// Until the certificate is to be renewed; zero when it is time.
    fn due_in(&self, chance: f64) -> Duration {
        let due = self.identity.borrow().renew_at(chance);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
        Duration::from_secs(u64::try_from(due - now).unwrap_or(0))
    }

    async fn own(&self, due: bool) -> Own {
        let running = self.running.lock().await;
        let identity = self.identity.borrow().clone();
        Own {
            manager: identity.role == Role::Manager,
            trust_digest: root::digest(&identity.root_pem),
            due,
            raft_id: running.as_ref().map(|r| r.raft_id),
            member: running.as_ref().is_some_and(RunningManager::is_member),
        }
    }

    /// Waits for another word of the managers, another state, or the time.
    async fn changed(&mut self, limit: Duration) {
        let state = self.manager.borrow().as_ref().map(|manager| manager.state());
        let state = async {
            match state {
                Some(mut state) => state.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = self.desired.changed() => {}
            Ok(()) = state => {}
            () = tokio::time::sleep(limit) => {}
        }
    }

    async fn renew(&mut self) -> Result<(), RoleError> {
        let renewed = self.client.renew().await.map_err(RoleError::Renew)?;
        let (state_dir, lock, copy) = (self.state_dir.clone(), self.lock.clone(), renewed.clone());
        blocking(move || run::store_identity(&state_dir, &copy, lock.as_ref()))
            .await
            .map_err(RoleError::Store)?;
        if let Some(running) = &*self.running.lock().await {
            running.renewed(renewed.clone());
        }
        let told = self.desired.borrow().swarm().cloned();
        let early = told.is_some_and(|told| {
            let role = told
                .raft_id
                .is_some_and(|id| (id != 0) != (renewed.role == Role::Manager));
            role || (!told.trust_digest.is_empty() && told.trust_digest != root::digest(&renewed.root_pem))
        });
        self.identity.send_replace(renewed);
        if early { Err(RoleError::Early) } else { Ok(()) }
    }

    async fn start(&mut self, raft_id: u64) -> Result<(), RoleError> {
        let identity = self.identity.borrow().clone();
        let started = run::promote(&self.state_dir, &identity, raft_id, self.lock.clone()).await;
        *self.running.lock().await = Some(started.map_err(RoleError::Start)?);
        Ok(())
    }

    /// The API shows the manager when it knows the swarm's state.
    async fn enter(&mut self) -> Result<(), RoleError> {
        let running = self.running.lock().await;
        let Some(running) = &*running else { return Ok(()) };
        let managers = self.managers.borrow().clone();
        let others = managers.into_iter().filter(|m| *m != running.advertise).collect();
        run::enter(running, others).await.map_err(RoleError::Enter)?;
        self.manager.send_replace(Some(Arc::new(running.manager.clone())));
        Ok(())
    }

    async fn stop(&mut self) -> Result<(), RoleError> {
        self.manager.send_replace(None);
        let Some(running) = self.running.lock().await.take() else {
            return Ok(());
        };
        run::demote(&self.state_dir, running)
            .await
            .map_err(RoleError::Stop)?;
        // A worker's key is never locked.
        let (state_dir, identity) = (self.state_dir.clone(), self.identity.borrow().clone());
        blocking(move || run::store_identity(&state_dir, &identity, None))
            .await
            .map_err(RoleError::Store)?;
        self.lock = None;
        Ok(())
    }

    /// Locks with the swarm's unlock key, or opens, as the swarm's spec says.
    async fn relock(&mut self) -> Result<(), RoleError> {
        let manager = self.manager.borrow().clone();
        let Some(manager) = manager else { return Ok(()) };
        let state = manager.state().borrow().clone();
        let Some(cluster) = &state.cluster else {
            return Ok(());
        };
        let wanted = UnlockKey::stored(&cluster.unlock_key).map_err(RoleError::Key)?;
        if wanted == self.lock {
            return Ok(());
        }
        let (state_dir, identity) = (self.state_dir.clone(), self.identity.borrow().clone());
        let (old, new) = (self.lock.clone(), wanted.clone());
        blocking(move || run::relock(&state_dir, &identity, old.as_ref(), new.as_ref()))
            .await
            .map_err(RoleError::Lock)?;
        tracing::info!(locked = wanted.is_some(), "the lock of this manager changed");
        self.lock = wanted;
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
