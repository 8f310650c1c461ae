//! What users fear: nodes that die, links that are cut.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use skep_tests::Node;

use super::api;
use super::side::{Side, until};

const REPLICAS: usize = 6;
const CUT: Duration = Duration::from_secs(60);
/// How long writes go on after a link is back.
const AFTERWARDS: Duration = Duration::from_secs(40);
/// Between two writes.
const PACE: Duration = Duration::from_millis(200);

/// A write that asks for nothing to run; an error if it is not accepted.
fn write(node: &Node, name: &str) -> Result<()> {
    let spec = json!({
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": "skep-test"}},
        "Mode": {"Replicated": {"Replicas": 0}},
    });
    api::post(node, "/services/create", &spec).map(drop)
}

fn unique() -> Result<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(format!("w{}", now.as_nanos()))
}

/// Removes what the writes made.
fn clean(side: &Side) -> Result<()> {
    let names = side.any()?.docker_ok(&["service", "ls", "--quiet"])?;
    let names: Vec<&str> = names.lines().collect();
    if !names.is_empty() {
        side.any()?
            .docker_ok(&[&["service", "rm"], &names[..]].concat())?;
    }
    until("removal of all", Instant::now(), || {
        Ok(side.running("web")?.is_empty())
    })
    .map(drop)
}

/// Kills the node; when. What it still did while it died is over on return.
fn kill(node: &Node) -> Result<Instant> {
    let begin = Instant::now();
    node.kill_now()?;
    until("the end of the node", begin, || Ok(!node.is_alive()))?;
    Ok(begin)
}

/// The leader is killed; until another manager accepts a write.
pub fn leader_to_write(side: &Side) -> Result<f64> {
    side.whole()?;
    let leader = side.leader()?;
    let other = side.follower()?;
    let begin = kill(leader)?;
    let took = until("a write elsewhere", begin, || {
        write(other, &unique()?).map(|()| true)
    })?;
    side.whole()?;
    clean(side)?;
    Ok(took.as_secs_f64())
}

fn killed_to_running(side: &Side, pick: fn(&Side) -> Result<&Node>) -> Result<f64> {
    side.whole()?;
    side.create("web", REPLICAS)?;
    side.settled("web", REPLICAS, Instant::now())?;
    let victim = pick(side)?;
    let begin = kill(victim)?;
    let took = until("its tasks elsewhere", begin, || {
        Ok(side.running("web")?.len() == REPLICAS)
    })?;
    side.whole()?;
    clean(side)?;
    Ok(took.as_secs_f64())
}

pub fn leader_to_tasks(side: &Side) -> Result<f64> {
    killed_to_running(side, Side::leader)
}

pub fn follower_to_tasks(side: &Side) -> Result<f64> {
    killed_to_running(side, Side::follower)
}

/// A follower's link is cut for a minute. Until that node is Ready again, once it is back.
pub fn cut_to_ready(side: &Side) -> Result<f64> {
    side.whole()?;
    let cut = side.follower()?;
    let witness = other_than(side, cut)?;
    let path = format!("/nodes/{}", cut.name());
    let state = || Ok(api::get(witness, &path)?["Status"]["State"].clone());
    cut.cut()?;
    std::thread::sleep(CUT);
    let before: Result<Value> = state();
    cut.heal()?;
    ensure!(before? == "down", "{} was never down", cut.name());
    let begin = Instant::now();
    let took = until("the node to be Ready", begin, || Ok(state()? == "ready"))?;
    side.whole()?;
    Ok(took.as_secs_f64())
}

/// A follower's link is cut for a minute. Writes at another manager that are refused in the time after its return.
pub fn cut_refusals(side: &Side) -> Result<f64> {
    side.whole()?;
    let cut = side.follower()?;
    let witness = other_than(side, cut)?;
    cut.cut()?;
    std::thread::sleep(CUT);
    cut.heal()?;
    let begin = Instant::now();
    let (mut refused, mut accepted) = (0u32, 0u32);
    while begin.elapsed() < AFTERWARDS {
        match write(witness, &unique()?) {
            Ok(()) => accepted += 1,
            Err(_) => refused += 1,
        }
        std::thread::sleep(PACE);
    }
    ensure!(accepted > 0, "no write was ever accepted");
    side.whole()?;
    clean(side)?;
    Ok(f64::from(refused))
}

/// The leader's control plane is restarted on purpose. Writes at another manager that are refused meanwhile.
pub fn leader_restart_refusals(side: &Side) -> Result<f64> {
    side.whole()?;
    let leader = side.leader()?;
    let other = side.follower()?;
    if leader.agent().is_err() {
        bail!("only an agent can be restarted without its containers");
    }
    let (mut refused, mut accepted) = (0u32, 0u32);
    std::thread::scope(|scope| {
        let restart = scope.spawn(|| leader.restart_agent());
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(8) {
            match write(other, &unique()?) {
                Ok(()) => accepted += 1,
                Err(_) => refused += 1,
            }
            std::thread::sleep(PACE / 4);
        }
        restart.join().map_err(|_| anyhow::anyhow!("panicked"))?
    })?;
    ensure!(accepted > 0, "no write was ever accepted");
    side.whole()?;
    clean(side)?;
    Ok(f64::from(refused))
}

fn other_than<'a>(side: &'a Side, node: &Node) -> Result<&'a Node> {
    let mut living = side.cluster.living();
    living
        .find(|other| other.number() != node.number())
        .context("no other node")
}
