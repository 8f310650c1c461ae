//! The holder of an address is killed: the address answers again, and no connection is lost but those whose task died with it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_tests::SessionKind;
use skep_tests::session::Answers;
use skep_tests::suite::Test;
use skep_tests::watcher::{Heard, longest_overlap_ms};

use super::load::{Crowd, hosts_on, judge};
use super::stage::{ADDRESS, PORT, Stage, after, entry};

pub const TESTS: &[Test<Stage>] = &[
    (
        "a_holder_that_runs_tasks_is_killed",
        a_holder_that_runs_tasks_is_killed,
    ),
    (
        "the_leader_and_another_holder_are_killed_at_once",
        the_leader_and_another_holder_are_killed_at_once,
    ),
    (
        "a_holder_is_killed_just_after_scaling",
        a_holder_is_killed_just_after_scaling,
    ),
];

/// The address of the second holder.
const SECOND: &str = "192.168.50.101";

/// An address never stays silent longer. Far from what is expected, which is below half a second.
const NEVER_SILENT_MS: u64 = 5_000;

/// Longer than a take-over and the retransmissions after it.
const AFTERWARDS: Duration = Duration::from_secs(4);

/// A lease, and what an answer may take.
pub const LEASE_MS: u128 = 500;

pub fn ask(stage: &Stage, address: &str, port: u16) -> Result<Answers> {
    let (interval, length) = (Duration::from_millis(5), Duration::from_secs(5));
    stage
        .cluster
        .client
        .start_answers(address, port, interval, length)
}

/// The address answers again, and its new holder is the one that is heard.
fn taken_over(
    stage: &Stage,
    address: &str,
    killed: (&[usize], u128),
    answers: Answers,
    heard: &[Heard],
) -> Result<()> {
    let (dead, killed_ms) = killed;
    let answers = answers.finish()?;
    let asked = stage.other_than(dead)?;
    let now = entry(asked, address)?;
    let new = stage.holder(asked, address)?.number();
    ensure!(!dead.contains(&new), "{now:?}");
    let claims: Vec<&Heard> = heard
        .iter()
        .filter(|claim| claim.address.to_string() == address)
        .collect();
    let first = claims
        .iter()
        .find(|claim| claim.unix_ms > killed_ms && claim.node().ok() == Some(new));
    let first = first.with_context(|| format!("node{new} was not heard to have {address}: {claims:?}"))?;
    println!(
        "    {address}: silent for {} ms from {} after the kill; ARP of node{new} after {}; {}",
        answers.longest_gap_ms,
        after(answers.gap_began_unix_ms, killed_ms),
        after(first.unix_ms, killed_ms),
        now.reason.unwrap_or_default(),
    );
    ensure!(
        claims
            .iter()
            .any(|claim| claim.announcement && claim.node().ok() == Some(new)),
        "node{new} announced nothing"
    );
    ensure!(longest_overlap_ms(heard) < LEASE_MS, "two holders: {claims:?}");
    ensure!(answers.longest_gap_ms < NEVER_SILENT_MS, "{answers:?}");
    Ok(())
}

fn a_holder_that_runs_tasks_is_killed(stage: &Stage) -> Result<()> {
    let tasks = stage.settled("web", 6)?;
    let leader = stage.leader()?.number();
    let mut nodes = tasks.iter().map(|task| task.node);
    let number = nodes
        .find(|node| *node != leader)
        .context("all tasks run on the leader")?;
    let victim = stage.node(number);
    stage.moved(ADDRESS, victim)?;
    let dead = hosts_on(&tasks, &[number]);
    let crowd = Crowd::of_all_kinds(stage, &format!("{ADDRESS}:{PORT}"))?;
    let watching = stage.watcher.watch(&[ADDRESS], Duration::from_secs(5))?;
    let answers = ask(stage, ADDRESS, PORT)?;
    std::thread::sleep(Duration::from_secs(1));
    let killed_ms = victim.kill_now()?;
    std::thread::sleep(AFTERWARDS);
    let heard = watching.finish()?;
    taken_over(stage, ADDRESS, (&[number], killed_ms), answers, &heard)?;
    judge(&crowd.stop()?, killed_ms, &dead)?;
    let new = stage.holder(stage.other_than(&[number])?, ADDRESS)?;
    let line = format!("{ADDRESS} {} {}", victim.name(), new.name());
    ensure!(stage.hook_log(new)?.contains(&line), "{:?}", stage.hook_log(new)?);
    stage.revive()
}

/// The leader holds one address, a worker the other; neither runs a task.
fn the_leader_and_another_holder_are_killed_at_once(stage: &Stage) -> Result<()> {
    let leader = stage.leader()?;
    leader.skep(&["ingress", "address", "add", &format!("{SECOND}/24")])?;
    stage.moved(ADDRESS, leader)?;
    stage.moved(SECOND, stage.node(4))?;
    let elsewhere = format!("node.hostname!={}", leader.name());
    let options = ["--constraint", &elsewhere, "--constraint", "node.hostname!=node4"];
    stage.create("away", 6, 8081, &options)?;
    stage.answers(ADDRESS, 8081)?;
    let crowds = [ADDRESS, SECOND].map(|address| {
        let kinds = [
            (SessionKind::Idle, 100, 0),
            (SessionKind::Stream, 10, 0),
            (SessionKind::Udp, 5, 10),
            (SessionKind::Echo, 50, 0),
        ];
        Crowd::start(stage, &format!("{address}:8081"), &kinds)
    });
    let watching = stage.watcher.watch(&[ADDRESS, SECOND], Duration::from_secs(5))?;
    let answers = [ADDRESS, SECOND].map(|address| ask(stage, address, 8081));
    std::thread::sleep(Duration::from_secs(1));
    let dead = [leader.number(), 4];
    let killed_ms = stage.cluster.kill_now(&dead)?;
    std::thread::sleep(AFTERWARDS);
    let heard = watching.finish()?;
    for (address, answers) in [ADDRESS, SECOND].into_iter().zip(answers) {
        taken_over(stage, address, (&dead, killed_ms), answers?, &heard)?;
    }
    for crowd in crowds {
        judge(&crowd?.stop()?, killed_ms, &BTreeSet::new())?;
    }
    stage.revive()?;
    stage.remove(&["away"])?;
    stage
        .leader()?
        .skep(&["ingress", "address", "rm", SECOND])
        .map(drop)
}

/// A flow that is older than the table, and whose entry node is new.
fn a_holder_is_killed_just_after_scaling(stage: &Stage) -> Result<()> {
    let victim = stage.node(5);
    let options = ["--constraint", "node.hostname!=node5"];
    stage.create("scaled", 6, 8082, &options)?;
    stage.moved(ADDRESS, victim)?;
    stage.answers(ADDRESS, 8082)?;
    let target = format!("{ADDRESS}:8082");
    let mut crowds = vec![Crowd::start(stage, &target, &[(SessionKind::Idle, 500, 0)])?];
    let manager = stage.leader()?;
    manager.docker_ok(&["service", "scale", "scaled=7"])?;
    let seven = stage.settled("scaled", 7)?;
    crowds.push(Crowd::start(
        stage,
        &target,
        &[(SessionKind::Idle, 500, 0), (SessionKind::Echo, 100, 0)],
    )?);
    manager.docker_ok(&["service", "scale", "-d", "scaled=6"])?;
    let six = stage.settled("scaled", 6)?;
    let answers = ask(stage, ADDRESS, 8082)?;
    let watching = stage.watcher.watch(&[ADDRESS], Duration::from_secs(4))?;
    let killed_ms = victim.kill_now()?;
    std::thread::sleep(AFTERWARDS);
    taken_over(stage, ADDRESS, (&[5], killed_ms), answers, &watching.finish()?)?;
    // Sessions of the task that was scaled away ended with it.
    let gone = seven.iter().filter(|task| !six.contains(task));
    let gone: BTreeSet<String> = gone.map(|task| task.hostname().to_string()).collect();
    for crowd in crowds {
        let (mut sessions, mut ended) = (crowd.stop()?, 0);
        sessions.retain(|session| {
            ended += usize::from(gone.contains(&session.task));
            !gone.contains(&session.task)
        });
        println!("    {ended} sessions of the task that was scaled away");
        judge(&sessions, killed_ms, &BTreeSet::new())?;
    }
    stage.revive()?;
    stage.remove(&["scaled"])
}
