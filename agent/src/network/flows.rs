//! The flow tables of this node: kept clean and counted. All of it on threads that may block, through handles of their
//! own: a full table takes tens of milliseconds to read, and the keeper has other work.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use skep_ebpf_loader::{Datapath, FlowTables, FlowUsage};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::network::NetworkError;

/// Flows that are over leave the table.
const TICK: Duration = Duration::from_secs(10);

/// Removes flows that are over or idle for too long, for ever.
pub async fn collect(tables: Arc<FlowTables>) -> Infallible {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let collected = ask(&tables, |tables| Ok(tables.collect(Datapath::now()?)?)).await;
        match collected {
            Ok(report) => tracing::trace!(?report, "flows collected"),
            Err(error) => tracing::warn!(%error, "flows not collected"),
        }
    }
}

/// How full the tables are.
pub async fn usage(tables: &Arc<FlowTables>) -> Result<FlowUsage, NetworkError> {
    ask(tables, |tables| Ok(tables.usage()?)).await
}

async fn ask<T: Send + 'static>(
    tables: &Arc<FlowTables>,
    question: impl FnOnce(&FlowTables) -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let tables = tables.clone();
    let answered = spawn_blocking(move || question(&tables)).await;
    // A thread that does not answer was ended with the runtime.
    answered.map_err(|_| NetworkError::Stopped)?
}
