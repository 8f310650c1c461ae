//! Agents that are killed, restarted and told to attach their programs in another way, under sessions on all paths.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use skep_tests::session::Sessions;
use skep_tests::suite::Test;
use skep_tests::{Cluster, Session, SessionKind, swarm};

use super::PATIENCE;

pub const TESTS: &[Test<Cluster>] = &[
    (
        "sessions_outlive_agents_that_are_restarted",
        sessions_outlive_agents_that_are_restarted,
    ),
    (
        "sessions_outlive_agents_that_are_killed_and_stay_away",
        sessions_outlive_agents_that_are_killed_and_stay_away,
    ),
    (
        "sessions_outlive_a_change_to_clsact_and_back",
        sessions_outlive_a_change_to_clsact_and_back,
    ),
];

/// A path that was closed for a moment shows as more: TCP waits 0.2 s, then 0.4, then 0.8. Whether a packet is lost is counted
/// in the data plane's own tests; here the machine is busy with starting agents.
const LONGEST_GAP_MS: u64 = 1000;
/// The kernel stops an interface for some milliseconds to give it its first clsact qdisc.
const LONGEST_GAP_OF_QDISC_MS: u64 = 2000;

/// From the client to all tasks through node 1, and from a container there to the VIP.
fn start(cluster: &Cluster, length: Duration) -> Result<Vec<Sessions>> {
    let address = format!("{}:8080", cluster.node(1).address());
    let pause = Duration::from_millis(5);
    let mut sessions = Vec::new();
    for (kind, count) in [
        (SessionKind::Echo, 12),
        (SessionKind::Stream, 6),
        (SessionKind::Idle, 12),
        (SessionKind::Udp, 6),
    ] {
        let started = cluster
            .client
            .start_sessions(&address, kind, count, length, pause)?;
        sessions.push(started);
    }
    let inside = swarm::containers(cluster, "web")?
        .into_iter()
        .find(|task| task.node == 1)
        .context("no task on node1")?;
    for (kind, count) in [(SessionKind::Echo, 12), (SessionKind::Idle, 12)] {
        let started = cluster
            .node(1)
            .start_sessions(&inside.name, "web:80", kind, count, length, pause)?;
        sessions.push(started);
    }
    Ok(sessions)
}

/// Does `change` under sessions; all of them go on.
fn under_sessions(
    cluster: &Cluster,
    what: &str,
    length: Duration,
    longest_gap_ms: u64,
    change: impl Fn() -> Result<()>,
) -> Result<()> {
    let sessions = start(cluster, length)?;
    sleep(Duration::from_secs(1));
    change()?;
    let mut all: Vec<Session> = Vec::new();
    for started in sessions {
        all.extend(started.finish()?);
    }
    let broken: Vec<&Session> = all.iter().filter(|s| !s.ok || s.changed != 0).collect();
    // An idle session's wait is meant.
    let busy = all.iter().filter(|session| session.kind != SessionKind::Idle);
    let gap = busy.map(|session| session.longest_gap_ms).max().unwrap_or(0);
    println!(
        "    {what}: {} of {} sessions broken, longest gap {gap} ms",
        broken.len(),
        all.len()
    );
    ensure!(broken.is_empty(), "{what}: {broken:?}");
    ensure!(gap < longest_gap_ms, "{what}: a gap of {gap} ms");
    swarm::wait_for_nodes(cluster.node(1), 3, PATIENCE)?;
    swarm::wait_for_replicas(cluster.node(1), "web", "6/6", PATIENCE)?;
    Ok(())
}

fn sessions_outlive_agents_that_are_restarted(cluster: &Cluster) -> Result<()> {
    under_sessions(
        cluster,
        "without a restart",
        Duration::from_secs(6),
        LONGEST_GAP_MS,
        || {
            sleep(Duration::from_secs(2));
            Ok(())
        },
    )?;
    for number in [1, 2] {
        let what = format!("node{number} restarted");
        under_sessions(cluster, &what, Duration::from_secs(12), LONGEST_GAP_MS, || {
            cluster.node(number).restart_agent()
        })?;
    }
    Ok(())
}

/// Longer than the others need to miss a node that is really gone.
fn sessions_outlive_agents_that_are_killed_and_stay_away(cluster: &Cluster) -> Result<()> {
    for number in [1, 2] {
        let what = format!("agent of node{number} killed");
        under_sessions(cluster, &what, Duration::from_secs(14), LONGEST_GAP_MS, || {
            let node = cluster.node(number);
            node.stop_agent(Signal::SIGKILL)?;
            sleep(Duration::from_secs(4));
            node.start_agent()
        })?;
    }
    Ok(())
}

fn sessions_outlive_a_change_to_clsact_and_back(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(2);
    for options in [&["--attach", "clsact"][..], &["--attach", "auto"], &[]] {
        let what = format!("node2 restarted with {options:?}");
        under_sessions(
            cluster,
            &what,
            Duration::from_secs(12),
            LONGEST_GAP_OF_QDISC_MS,
            || {
                node.set_agent_options(options)?;
                node.restart_agent()
            },
        )?;
        let filters = node
            .exec(&["tc", "filter", "show", "dev", "eth0", "ingress"])?
            .ok()?;
        let by_filter = filters.contains("0x736b65");
        ensure!(
            by_filter == options.contains(&"clsact"),
            "with {options:?}: {filters}"
        );
    }
    Ok(())
}
