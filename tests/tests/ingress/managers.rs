//! No quorum of managers: what runs goes on, and what breaks is noticed all the same.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use skep_tests::suite::Test;
use skep_tests::swarm;
use skep_tests::{SessionKind, client, until};

use super::PATIENCE;
use super::load::{Crowd, judge};
use super::stage::{ADDRESS, Stage, entry};

pub const TESTS: &[Test<Stage>] = &[(
    "without_a_quorum_everything_that_runs_goes_on",
    without_a_quorum_everything_that_runs_goes_on,
)];

/// How long there is no quorum. `SKEP_TEST_NO_QUORUM_S=600` for the ten minutes by hand.
const NO_QUORUM: Duration = Duration::from_secs(40);

fn no_quorum() -> Duration {
    let asked = std::env::var("SKEP_TEST_NO_QUORUM_S");
    asked
        .ok()
        .and_then(|text| text.parse().ok())
        .map_or(NO_QUORUM, Duration::from_secs)
}

fn without_a_quorum_everything_that_runs_goes_on(stage: &Stage) -> Result<()> {
    stage
        .leader()?
        .docker_ok(&["network", "create", "-d", "overlay", "inner"])?;
    // Not on the managers that die, and two on one node: one of them is killed later.
    let options = [
        "--network",
        "inner",
        "--constraint",
        "node.hostname!=node1",
        "--constraint",
        "node.hostname!=node2",
    ];
    let tasks = stage.create("lasting", 6, 8085, &options)?;
    stage.moved(ADDRESS, stage.node(1))?;
    stage.answers(ADDRESS, 8085)?;
    let kinds = [
        (SessionKind::Idle, 50, 0),
        (SessionKind::Echo, 20, 10),
        (SessionKind::Stream, 5, 0),
    ];
    let crowd = Crowd::start(stage, &format!("{ADDRESS}:8085"), &kinds)?;
    let begin = Instant::now();
    let killed_ms = stage.cluster.kill_now(&[1, 2])?;
    // The holder died with the quorum.
    let witness = stage.node(3);
    let (holder, took) = until("another holder", PATIENCE, || {
        let holder = stage.holder(witness, ADDRESS)?;
        Ok((![1, 2].contains(&holder.number())).then_some(holder))
    })?;
    println!("    {} holds the address, seen after {took:.1?}", holder.name());
    let mut round = 0;
    while begin.elapsed() < no_quorum() {
        all_answers(stage, &tasks[0])?;
        if round == 0 {
            let victim = tasks
                .iter()
                .find(|task| task.node == 4)
                .context("no task on node4")?;
            a_dead_container_leaves_the_tables(stage, victim)?;
        }
        if round == 1 {
            an_agent_that_stops_hands_over(stage)?;
        }
        round += 1;
        std::thread::sleep(Duration::from_secs(2));
    }
    let refused = witness.docker(&["service", "scale", "-d", "lasting=7"])?;
    ensure!(!refused.success(), "there was a quorum: {refused}");
    let victim = tasks
        .iter()
        .find(|task| task.node == 4)
        .context("no task on node4")?;
    let dead = BTreeSet::from([victim.hostname().to_string()]);
    let (crowd, on_dead): (Vec<_>, Vec<_>) = crowd
        .stop()?
        .into_iter()
        .partition(|session| !dead.contains(&session.task));
    println!("    {} sessions of the container that was killed", on_dead.len());
    judge(&crowd, killed_ms, &BTreeSet::new())?;
    stage.revive()?;
    stage.settled("lasting", 6)?;
    stage.remove(&["lasting"])
}

/// Ports by every living node and by the address, and names and the VIP from inside.
fn all_answers(stage: &Stage, from: &swarm::TaskContainer) -> Result<()> {
    let nodes = stage.cluster.living().map(|node| node.address().to_string());
    for address in nodes.chain([ADDRESS.to_string()]) {
        let replies = stage.cluster.client.get(&format!("http://{address}:8085/"), 10)?;
        client::count_by_host(&replies).with_context(|| format!("through {address}"))?;
    }
    let node = stage.node(from.node);
    swarm::ask(node, &from.name, "http://lasting/", 10)?;
    ensure!(!swarm::resolve(node, &from.name, "tasks.lasting")?.is_empty());
    Ok(())
}

/// On other nodes too, though nobody can tell them but its own node. (That node starts nothing in its place.)
fn a_dead_container_leaves_the_tables(stage: &Stage, victim: &swarm::TaskContainer) -> Result<()> {
    let tasks = swarm::containers(&stage.cluster, "lasting")?;
    let peer = tasks
        .iter()
        .find(|task| task.node == 5)
        .context("no task on node5")?;
    let before = swarm::resolve(stage.node(5), &peer.name, "tasks.lasting")?;
    stage.node(victim.node).engine(&["kill", &victim.id])?.ok()?;
    let (after, took) = until("a name without the dead container", PATIENCE, || {
        let now = swarm::resolve(stage.node(5), &peer.name, "tasks.lasting")?;
        Ok((now.len() + 1 == before.len()).then_some(now))
    })?;
    println!("    a dead container left the name of its peers after {took:.1?}");
    ensure!(after.is_subset(&before), "{after:?} of {before:?}");
    // And the rows and the VIP.
    swarm::ask(stage.node(5), &peer.name, "http://lasting/", 40)?;
    let url = format!("http://{}:8085/", stage.node(5).address());
    let hosts = client::count_by_host(&stage.cluster.client.get(&url, 60)?)?;
    ensure!(!hosts.contains_key(victim.hostname()), "{hosts:?}");
    Ok(())
}

fn an_agent_that_stops_hands_over(stage: &Stage) -> Result<()> {
    let holder = stage.holder(stage.node(3), ADDRESS)?;
    holder.stop_agent(Signal::SIGTERM)?;
    let asked = stage.other_than(&[holder.number()])?;
    until("a new holder", PATIENCE, || {
        Ok((stage.holder(asked, ADDRESS)?.number() != holder.number()).then_some(()))
    })?;
    println!("    then {:?}", entry(asked, ADDRESS)?);
    holder.start_agent()
}
