//! Nodes that are no longer heard go down; such as are heard again are ready. Decides when tasks are moved (the
//! look-ups of the data plane have a faster clock of their own).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::dispatcher::{Dispatcher, Pulse, heartbeat_period};
use crate::manager::Propose;
use crate::model::*;
use crate::raft::group::Group;

/// swarmkit manager/dispatcher: heartbeats that may be missed.
const MISSED: u32 = 3;
const LOOK: Duration = Duration::from_millis(500);

/// What the pulse says about a node in that state, if anything has to change. `since`: when this leader began; nodes
/// have as long to come back after a change of leader.
fn verdict(
    state: NodeState,
    pulse: &Pulse,
    since: Instant,
    now: Instant,
    period: Duration,
) -> Option<NodeState> {
    let last = pulse.heard.map_or(since, |heard| heard.max(since));
    let silent = now.duration_since(last) > period * MISSED;
    match state {
        NodeState::Down => (pulse.connected && !silent).then_some(NodeState::Ready),
        _ if silent => Some(NodeState::Down),
        _ => None,
    }
}

/// Runs while this manager leads.
pub async fn watch(group: Arc<Group>, dispatcher: Arc<Dispatcher>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(since) = dispatcher.since() else {
            continue;
        };
        let state = group.state().borrow().clone();
        let period = heartbeat_period(&state);
        for node in state.nodes.values() {
            let pulse = dispatcher.pulse(&node.id);
            let Some(verdict) = verdict(node.state(), &pulse, since, Instant::now(), period) else {
                continue;
            };
            tracing::info!(
                node_id = node.id,
                ?verdict,
                "a node's heartbeats changed its state"
            );
            if verdict == NodeState::Down {
                dispatcher.drop_session(&node.id);
            }
            let message = match verdict {
                NodeState::Down => "heartbeat failure",
                _ => "",
            };
            let report = ReportNode {
                id: node.id.clone(),
                state: Some(verdict as i32),
                message: Some(message.to_string()),
                ..Default::default()
            };
            if let Err(error) = group.propose(Change::ReportNode(report)).await {
                tracing::warn!(
                    node_id = node.id,
                    error = &error as &dyn std::error::Error,
                    "cannot record a node's state"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_missed_heartbeats_and_a_new_leaders_grace() {
        let period = Duration::from_secs(5);
        let since = Instant::now();
        let pulse = |heard: Option<u64>, connected| Pulse {
            heard: heard.map(|s| since + Duration::from_secs(s)),
            connected,
        };
        let at = |state, pulse: &Pulse, seconds| {
            verdict(state, pulse, since, since + Duration::from_secs(seconds), period)
        };
        assert_eq!(at(NodeState::Ready, &pulse(None, false), 15), None);
        assert_eq!(
            at(NodeState::Ready, &pulse(None, false), 16),
            Some(NodeState::Down)
        );
        assert_eq!(
            at(NodeState::Unknown, &pulse(None, false), 16),
            Some(NodeState::Down)
        );
        assert_eq!(at(NodeState::Ready, &pulse(Some(10), true), 25), None);
        assert_eq!(
            at(NodeState::Ready, &pulse(Some(10), true), 26),
            Some(NodeState::Down)
        );
        assert_eq!(at(NodeState::Down, &pulse(Some(10), false), 12), None);
        assert_eq!(
            at(NodeState::Down, &pulse(Some(10), true), 12),
            Some(NodeState::Ready)
        );
        assert_eq!(at(NodeState::Down, &pulse(None, false), 60), None);
    }
}
