//! Renews this node's certificate between 50 % and 80 % of its life.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_control::ca::Identity;
use skep_control::rpc::client::NodeClient;
use tokio::sync::watch;

use crate::core::backoff::Backoff;
use crate::reconciler::chain;

/// The clock may be set, so the time is looked at anew at least this often.
const LOOK: Duration = Duration::from_secs(3600);

pub async fn run(state_dir: PathBuf, client: Arc<NodeClient>, identity: watch::Sender<Identity>) {
    let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(600));
    let mut chance: f64 = rand::random();
    loop {
        let due = identity.borrow().renew_at(chance);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
        if due > now {
            tokio::time::sleep(Duration::from_secs((due - now).unsigned_abs()).min(LOOK)).await;
            continue;
        }
        match client.renew().await {
            Ok(renewed) => {
                if let Err(error) = renewed.store(&state_dir) {
                    tracing::error!(error = %chain(&error), "store the renewed certificate");
                }
                tracing::info!("the node's certificate was renewed");
                identity.send_replace(renewed);
                chance = rand::random();
                backoff.reset();
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "renew the node's certificate");
                tokio::time::sleep(backoff.next(rand::random())).await;
            }
        }
    }
}
