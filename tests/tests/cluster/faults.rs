//! What breaks: containers, agents, links, nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep_tests::suite::Test;
use skep_tests::{Cluster, Reply, client, swarm, until};

use super::PATIENCE;

pub const TESTS: &[Test<Cluster>] = &[
    ("a_killed_container_is_replaced", a_killed_container_is_replaced),
    (
        "an_agent_that_restarts_adopts_its_containers",
        an_agent_that_restarts_adopts_its_containers,
    ),
    (
        "a_manager_that_was_cut_off_does_not_topple_the_leader",
        a_manager_that_was_cut_off_does_not_topple_the_leader,
    ),
    ("a_killed_node_costs_no_request", a_killed_node_costs_no_request),
    (
        "a_node_that_comes_back_serves_again",
        a_node_that_comes_back_serves_again,
    ),
];

fn ids(cluster: &Cluster) -> Result<BTreeSet<String>> {
    Ok(swarm::containers(cluster, "web")?
        .into_iter()
        .map(|task| task.id)
        .collect())
}

fn none_failed(replies: &[Reply]) -> Result<()> {
    for reply in replies {
        reply
            .seen()
            .with_context(|| format!("sent at {} ms", reply.at_ms))?;
    }
    Ok(())
}

fn a_killed_container_is_replaced(cluster: &Cluster) -> Result<()> {
    let victim = swarm::containers(cluster, "web")?
        .into_iter()
        .find(|task| task.node == 2)
        .context("no task on node2")?;
    cluster.node(2).docker_ok(&["kill", &victim.name])?;
    let ((), took) = until("a replacement", PATIENCE, || {
        let now = ids(cluster)?;
        Ok((now.len() == 6 && !now.contains(&victim.id)).then_some(()))
    })?;
    println!("    replaced after {took:.1?}");
    ensure!(took < Duration::from_secs(15), "it took {took:?}");
    let rows = cluster.node(1).docker_ok(&[
        "service",
        "ps",
        "--format",
        "{{.Name}}|{{.CurrentState}}|{{.Error}}",
        "web",
    ])?;
    ensure!(
        rows.contains("Failed") && rows.contains("task: non-zero exit (137)"),
        "{rows}"
    );
    Ok(())
}

/// As after an upgrade, and as after a crash: no container is touched, and packets go on meanwhile.
fn an_agent_that_restarts_adopts_its_containers(cluster: &Cluster) -> Result<()> {
    let before = ids(cluster)?;
    let node = cluster.node(2);
    let url = format!("http://{}:8080/", node.address());
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let load = cluster
            .client
            .start_get(&url, 300, Duration::from_millis(20), Duration::from_secs(5))?;
        node.stop_agent(signal)?;
        std::thread::sleep(Duration::from_millis(500));
        node.start_agent()?;
        swarm::wait_for_nodes(cluster.node(1), 3, PATIENCE)?;
        none_failed(&load.finish()?).with_context(|| format!("during {signal}"))?;
        ensure!(ids(cluster)? == before, "containers changed after {signal}");
    }
    swarm::wait_for_replicas(cluster.node(1), "web", "6/6", PATIENCE)?;
    Ok(())
}

fn leader(cluster: &Cluster, asked: usize) -> Result<String> {
    let rows = swarm::nodes(cluster.node(asked))?;
    rows.into_iter()
        .find_map(|[name, _, role]| (role == "Leader").then_some(name))
        .context("no leader")
}

fn a_manager_that_was_cut_off_does_not_topple_the_leader(cluster: &Cluster) -> Result<()> {
    let before = leader(cluster, 1)?;
    let victim = cluster
        .nodes
        .iter()
        .find(|node| node.name() != before)
        .context("one is no leader")?;
    let witness = cluster
        .nodes
        .iter()
        .find(|node| node.name() == before)
        .context("the leader")?;
    victim.cut()?;
    std::thread::sleep(Duration::from_secs(6));
    victim.heal()?;
    for _ in 0..20 {
        ensure!(leader(cluster, witness.number())? == before, "the leader changed");
        std::thread::sleep(Duration::from_millis(200));
    }
    swarm::wait_for_nodes(witness, 3, PATIENCE)?;
    Ok(())
}

fn a_killed_node_costs_no_request(cluster: &Cluster) -> Result<()> {
    swarm::wait_for_replicas(cluster.node(1), "web", "6/6", PATIENCE)?;
    let mut loads = Vec::new();
    for number in [1, 2] {
        let url = format!("http://{}:8080/", cluster.node(number).address());
        loads.push(cluster.client.start_get(
            &url,
            1500,
            Duration::from_millis(20),
            Duration::from_secs(5),
        )?);
    }
    std::thread::sleep(Duration::from_secs(1));
    // As `kill -9` of the first process from outside would do it.
    kill(
        Pid::from_raw(cluster.node(3).space()?.init().pid),
        Signal::SIGKILL,
    )?;
    let killed = client::unix_ms();
    let ((), moved) = until("six tasks on two nodes", PATIENCE, || {
        Ok((swarm::containers(cluster, "web")?.len() == 6).then_some(()))
    })?;
    println!("    tasks moved after {moved:.1?}");
    for load in loads {
        let replies = load.finish()?;
        let (failed, ended) = client::failed_after(&replies, killed);
        ensure!(failed.is_empty(), "{failed:?}");
        ensure!(ended < 5, "{ended} requests under way at the kill");
        let slowest = replies.iter().map(|reply| reply.ms).fold(0.0, f64::max);
        println!("    {} requests, the slowest took {slowest:.0} ms", replies.len());
    }
    // What is left of it on the switch goes too.
    cluster.node(3).kill()?;
    let rows = swarm::nodes(cluster.node(1))?;
    ensure!(
        rows.iter()
            .any(|[name, status, _]| name == "node3" && status == "Down"),
        "{rows:?}"
    );
    Ok(())
}

fn a_node_that_comes_back_serves_again(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(3);
    node.start()?;
    swarm::wait_for_nodes(cluster.node(1), 3, PATIENCE)?;
    let url = format!("http://{}:8080/", node.address());
    until("node3 serves the published port", PATIENCE, || {
        Ok(cluster.client.get(&url, 1)?[0].ok.then_some(()))
    })?;
    swarm::wait_for_replicas(node, "web", "6/6", PATIENCE)?;
    let all = swarm::containers(cluster, "web")?;
    ensure!(all.len() == 6, "old containers were not removed: {all:?}");
    Ok(())
}
