//! When a snapshot is due: after as many entries as the swarm's spec says (`docker swarm update --snapshot-interval`).
//! openraft purges the log behind it.

use std::sync::Arc;
use std::time::Duration;

use super::group::Group;

const LOOK: Duration = Duration::from_secs(1);

fn is_due(applied: u64, snapshot: u64, interval: u64) -> bool {
    applied.saturating_sub(snapshot) >= interval.max(1)
}

/// Runs until the Raft core stops.
pub async fn snapshots(group: Arc<Group>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let metrics = group.raft().metrics().borrow().clone();
        if metrics.running_state.is_err() {
            return;
        }
        let asked = group
            .state()
            .borrow()
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.spec.snapshot_interval);
        let interval = asked.unwrap_or(group.timing().snapshot_every);
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        let snapshot = metrics.snapshot.map_or(0, |id| id.index);
        if is_due(applied, snapshot, interval)
            && let Err(error) = group.raft().trigger().snapshot().await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot ask for a snapshot"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_after_the_interval_and_never_for_nothing() {
        assert!(!is_due(0, 0, 0));
        assert!(!is_due(9, 0, 10));
        assert!(is_due(10, 0, 10));
        assert!(!is_due(10, 10, 0));
        assert!(is_due(11, 10, 0));
        assert!(!is_due(5, 10, 3));
    }
}
