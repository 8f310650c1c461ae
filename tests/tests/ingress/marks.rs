//! A dead node is out of every table in a second, a slow one is not.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use skep_tests::client::{Load, unix_ms};
use skep_tests::session::FailedConnect;
use skep_tests::suite::Test;
use skep_tests::swarm::{self, TaskContainer};
use skep_tests::{Connected, Node};

use super::PATIENCE;
use super::stage::{PORT, Stage};

pub const TESTS: &[Test<Stage>] = &[
    ("a_slow_node_is_not_dead", a_slow_node_is_not_dead),
    (
        "names_lose_a_node_that_is_cut_off_and_find_it_again",
        names_lose_a_node_that_is_cut_off_and_find_it_again,
    ),
    (
        "connects_find_a_living_task_when_a_node_dies",
        connects_find_a_living_task_when_a_node_dies,
    ),
];

/// The tables follow within about a second; this is what they must never take.
const NEVER_MS: u128 = 5_000;

/// How long a killed node's kernel may still refuse, see `skep_tests::client::failed_after`.
const DYING_MS: u128 = 100;

/// What a name stood for from a moment on.
#[derive(Debug, Deserialize)]
struct Answer {
    unix_ms: u128,
    addresses: BTreeSet<Ipv4Addr>,
}

/// Asks for `name` from inside the container for some seconds, and notes each change.
fn watch_name(node: &Node, container: &str, name: &str, seconds: u64) -> Result<Load> {
    node.start_inside(container, &["resolve", name, "--watch", &seconds.to_string()])
}

fn changes(load: Load) -> Result<Vec<Answer>> {
    let text = load.output()?;
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("line {line:?}")))
        .collect()
}

/// A service with a name, tasks on all nodes and a port of its own.
fn named(stage: &Stage) -> Result<Vec<TaskContainer>> {
    let manager = stage.leader()?;
    if swarm::replicas(manager, "named").is_err() {
        manager.docker_ok(&["network", "create", "-d", "overlay", "inner"])?;
        stage.create("named", 5, 8084, &["--network", "inner"])?;
    }
    stage.settled("named", 5)
}

fn on(tasks: &[TaskContainer], node: usize) -> Result<&TaskContainer> {
    let mut found = tasks.iter().filter(|task| task.node == node);
    found
        .next()
        .with_context(|| format!("no task on node{node}: {tasks:?}"))
}

fn address_of(node: &Node, task: &TaskContainer) -> Result<Ipv4Addr> {
    let format = "{{.NetworkSettings.Networks.inner.IPAddress}}";
    let text = node.docker_ok(&["inspect", "--format", format, &task.id])?;
    text.parse()
        .with_context(|| format!("address of {}: {text:?}", task.name))
}

fn a_slow_node_is_not_dead(stage: &Stage) -> Result<()> {
    let tasks = named(stage)?;
    let watches = [1, 2].map(|number| {
        let task = on(&tasks, number)?;
        watch_name(stage.node(number), &task.name, "tasks.named", 10)
    });
    std::thread::sleep(Duration::from_secs(1));
    for number in [3, 4, 5] {
        stage.node(number).pause(Duration::from_millis(300))?;
        std::thread::sleep(Duration::from_millis(500));
    }
    let hogs = stage.node(3).starve(12)?;
    std::thread::sleep(Duration::from_secs(4));
    drop(hogs);
    for watch in watches {
        let answers = changes(watch?)?;
        ensure!(answers.len() == 1, "the name changed: {answers:?}");
        ensure!(answers[0].addresses.len() == 5, "{answers:?}");
    }
    Ok(())
}

fn names_lose_a_node_that_is_cut_off_and_find_it_again(stage: &Stage) -> Result<()> {
    let tasks = named(stage)?;
    let cut = stage.node(4);
    let gone = address_of(cut, on(&tasks, 4)?)?;
    let watches = [1, 5].map(|number| {
        let task = on(&tasks, number)?;
        watch_name(stage.node(number), &task.name, "tasks.named", 8)
    });
    std::thread::sleep(Duration::from_secs(1));
    let cut_ms = unix_ms();
    cut.cut()?;
    std::thread::sleep(Duration::from_secs(3));
    let healed_ms = unix_ms();
    cut.heal()?;
    for watch in watches {
        let answers = changes(watch?)?;
        let lost = answers.iter().find(|answer| !answer.addresses.contains(&gone));
        let lost = lost.with_context(|| format!("{gone} was never lost: {answers:?}"))?;
        let back = answers
            .iter()
            .find(|answer| answer.unix_ms > healed_ms && answer.addresses.contains(&gone));
        let back = back.with_context(|| format!("{gone} did not come back: {answers:?}"))?;
        println!(
            "    lost {} ms after the cut, back {} ms after it was mended",
            lost.unix_ms.saturating_sub(cut_ms),
            back.unix_ms - healed_ms
        );
        ensure!(lost.unix_ms < cut_ms + NEVER_MS && back.unix_ms < healed_ms + NEVER_MS);
    }
    stage.healthy()
}

/// One that the dying node itself refused, in the moment in which nobody can know of its death.
fn of_the_dying_node(failure: &FailedConnect, killed_ms: u128) -> bool {
    ["refused", "reset"].contains(&failure.error.as_str())
        && (killed_ms..=killed_ms + DYING_MS).contains(&failure.unix_ms)
}

fn none_failed(what: &str, connected: &Connected, killed_ms: u128) -> Result<()> {
    let failures = connected.failures.iter();
    let failures: Vec<&FailedConnect> = failures
        .filter(|failure| !of_the_dying_node(failure, killed_ms))
        .collect();
    println!(
        "    {what}: {} connects, {} late, the slowest {:.0} ms",
        connected.connects, connected.late, connected.slowest_ms
    );
    ensure!(failures.is_empty(), "{what}: {failures:?}");
    Ok(())
}

fn connects_find_a_living_task_when_a_node_dies(stage: &Stage) -> Result<()> {
    let tasks = named(stage)?;
    let (victim, witness) = (stage.node(5), stage.node(2));
    let task = on(&tasks, 2)?;
    let gone = address_of(victim, on(&tasks, 5)?)?;
    let length = Duration::from_secs(6);
    let watch = watch_name(witness, &task.name, "tasks.named", 5)?;
    let outside =
        stage
            .cluster
            .client
            .start_connects(&format!("{}:{PORT}", witness.address()), 200, length)?;
    let inside = witness.start_connects(&task.name, "named:80", 200, length)?;
    std::thread::sleep(Duration::from_millis(1500));
    let killed_ms = victim.kill_now()?;
    none_failed("from outside", &outside.finish()?, killed_ms)?;
    none_failed("through the VIP", &inside.finish()?, killed_ms)?;
    let answers = changes(watch)?;
    let lost = answers
        .iter()
        .find(|answer| answer.unix_ms > killed_ms && !answer.addresses.contains(&gone));
    let lost = lost.with_context(|| format!("{gone} was never lost: {answers:?}"))?;
    println!(
        "    out of the name {} ms after the kill",
        lost.unix_ms - killed_ms
    );
    ensure!(lost.unix_ms < killed_ms + NEVER_MS);
    stage.revive()?;
    stage.remove(&["named"])?;
    skep_tests::until("removal of the network", PATIENCE, || {
        stage.leader()?.docker_ok(&["network", "rm", "inner"]).map(Some)
    })?;
    Ok(())
}
