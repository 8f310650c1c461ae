//! Putting a manager together, and taking it apart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Facts, ManagerConfig, RunError, RunningManager, files};
use crate::ca::Identity;
use crate::leader::Lead;
use crate::manager::Manager;
use crate::raft::elect::elections;
use crate::raft::group::{Group, Store, Timing};
use crate::raft::network::Peers;
use crate::raft::snapshots::snapshots;
use crate::rpc::channel::{Dialer, Trust};
use crate::rpc::gate::Gate;
use crate::rpc::server::{Desk, bind, serve};

/// How long the loops may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts the manager of a node that is one already.
pub async fn start(config: ManagerConfig) -> Result<RunningManager, RunError> {
    let store = Store {
        must_exist: true,
        unlock: config.unlock.clone(),
        alone_at: None,
    };
    assemble(config, store).await
}

pub(super) async fn assemble(config: ManagerConfig, store: Store) -> Result<RunningManager, RunError> {
    let listener = bind(config.listen).await?;
    assemble_on(listener, config, store).await
}

pub(super) async fn assemble_on(
    listener: TcpListener,
    config: ManagerConfig,
    store: Store,
) -> Result<RunningManager, RunError> {
    let identity = config.identity;
    let gate = Arc::new(Gate::default());
    let (renewed, current) = watch::channel(identity.clone());
    let dialer = Dialer::new(Trust::Member(current.clone()), gate.clone());
    let group = Group::open(
        &files::raft_dir(&config.state_dir),
        &identity.cluster_id,
        &identity.node_id,
        config.raft_id,
        Arc::new(Peers::new(dialer)),
        Timing::default(),
        store,
    )
    .await?;
    let lead = Arc::new(Lead::new(group.clone()));
    let desk = Arc::new(Desk::new(
        group.clone(),
        lead.clone(),
        &identity.cluster_id,
        gate.clone(),
    ));
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let spawn = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let stop = stop.clone();
        tasks.spawn(async move {
            // `None` is the stop itself.
            stop.run_until_cancelled(work).await
        });
    };
    spawn(Box::pin(serve(listener, desk.clone(), current, stop.clone())));
    spawn(Box::pin(desk.watch_removed()));
    spawn(Box::pin(group.clone().watch_leader()));
    spawn(Box::pin(group.clone().watch_reachable()));
    spawn(Box::pin(elections(group.clone())));
    spawn(Box::pin(snapshots(group.clone())));
    spawn(Box::pin(lead.run()));
    tasks.close();
    Ok(RunningManager {
        manager: Manager::new(group.clone(), group.state(), group.leader()),
        identity,
        raft_id: config.raft_id,
        advertise: config.advertise,
        group,
        renewed,
        gate,
        stop,
        tasks,
    })
}

impl RunningManager {
    /// Uses a renewed certificate for the connections made from now on.
    pub fn renewed(&self, identity: Identity) {
        self.renewed.send_replace(identity);
    }

    /// Whether this member knows itself as a voter. One that was promoted and has not been taken in yet does not.
    pub fn is_member(&self) -> bool {
        let raft_id = self.raft_id;
        self.group.membership().voter_ids().any(|id| id == raft_id)
    }

    /// Ends the loops and closes the connections. The store closes with the last request that is under way. The member stays a member of its swarm.
    pub async fn stop(self) {
        self.gate.shut();
        self.stop.cancel();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("the manager's loops did not end in time");
        }
        if let Err(error) = self.group.raft().shutdown().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the Raft core did not end well"
            );
        }
    }

    pub(super) fn facts(&self, listen: SocketAddr, managers: Vec<String>) -> Facts {
        Facts {
            raft_id: self.raft_id,
            listen,
            advertise: self.advertise.clone(),
            managers,
        }
    }

    /// For tests: cuts this manager off from everything, or connects it again.
    #[cfg(test)]
    pub(crate) fn cut_off(&self, cut: bool) {
        if cut { self.gate.shut() } else { self.gate.open() }
    }

    #[cfg(test)]
    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.group
    }
}
