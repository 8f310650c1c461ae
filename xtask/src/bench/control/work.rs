//! What users do all day: create, scale, update, remove, ask.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use skep_tests::Node;

use super::api;
use super::side::{Side, until};

const REPLICAS: usize = 6;
const SCALED: usize = 30;
const MANY: usize = 120;
const LISTED: usize = 50;
/// Requests whose median is told.
const REQUESTS: usize = 100;
/// Commands that wait for a service that never converges.
const WAITING: usize = 50;
const WATCHED: Duration = Duration::from_secs(10);

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Six containers by `docker run`, two on each node at once.
pub fn floor(side: &Side) -> Result<f64> {
    let begin = Instant::now();
    let ids = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..REPLICAS)
            .map(|number| {
                let node = &side.cluster.nodes[number % side.cluster.nodes.len()];
                scope.spawn(move || Ok((node, node.engine(&["run", "-d", "skep-test"])?.ok()?)))
            })
            .collect();
        let joined = runs
            .into_iter()
            .map(|run| run.join().map_err(|_| anyhow!("panicked"))?);
        joined.collect::<Result<Vec<(&Node, String)>>>()
    })?;
    let took = begin.elapsed();
    for (node, id) in ids {
        node.engine(&["rm", "-f", &id])?.ok()?;
    }
    Ok(seconds(took))
}

/// `service create` of six to six running.
pub fn create(side: &Side) -> Result<f64> {
    let begin = Instant::now();
    side.create("web", REPLICAS)?;
    let took = side.settled("web", REPLICAS, begin)?;
    side.remove("web")?;
    Ok(seconds(took))
}

pub fn remove(side: &Side) -> Result<f64> {
    side.create("web", REPLICAS)?;
    side.settled("web", REPLICAS, Instant::now())?;
    side.remove("web").map(seconds)
}

fn scale(side: &Side, from: usize, to: usize) -> Result<f64> {
    side.create("web", from)?;
    side.settled("web", from, Instant::now())?;
    let begin = Instant::now();
    side.any()?
        .docker_ok(&["service", "scale", "--detach", &format!("web={to}")])?;
    let took = side.settled("web", to, begin)?;
    side.remove("web")?;
    Ok(seconds(took))
}

pub fn scale_up(side: &Side) -> Result<f64> {
    scale(side, REPLICAS, SCALED)
}

pub fn scale_down(side: &Side) -> Result<f64> {
    scale(side, SCALED, REPLICAS)
}

/// One after the other, without traffic, until six new ones run.
pub fn update(side: &Side) -> Result<f64> {
    side.create("web", REPLICAS)?;
    side.settled("web", REPLICAS, Instant::now())?;
    let old = side.running("web")?;
    let begin = Instant::now();
    side.any()?.docker_ok(&[
        "service",
        "update",
        "--quiet",
        "--detach",
        "--env-add",
        "NEW=1",
        "web",
    ])?;
    let took = until("six new tasks", begin, || {
        let now = side.running("web")?;
        let new = now.len() == REPLICAS && now.iter().all(|container| !old.contains(container));
        Ok(new && side.known_to_run("web")? == REPLICAS)
    })?;
    side.remove("web")?;
    Ok(seconds(took))
}

/// A container is killed; until six run again.
pub fn replace(side: &Side) -> Result<f64> {
    side.create("web", REPLICAS)?;
    side.settled("web", REPLICAS, Instant::now())?;
    let (number, id) = side.running("web")?.into_iter().next().context("no container")?;
    let begin = Instant::now();
    side.cluster.node(number).engine(&["kill", &id])?.ok()?;
    let took = until("the replacement", begin, || {
        let now = side.running("web")?;
        Ok(now.len() == REPLICAS && now.iter().all(|(_, other)| *other != id))
    })?;
    side.remove("web")?;
    Ok(seconds(took))
}

/// 120 tasks, 40 on each node.
pub fn create_many(side: &Side) -> Result<f64> {
    let begin = Instant::now();
    side.create("many", MANY)?;
    let took = side.settled("many", MANY, begin)?;
    side.remove("many")?;
    Ok(seconds(took))
}

fn list(side: &Side, pick: fn(&Side) -> Result<&Node>) -> Result<f64> {
    for number in 0..LISTED {
        side.create(&format!("listed{number}"), 0)?;
    }
    let node = pick(side)?;
    let mut times = Vec::new();
    for _ in 0..REQUESTS {
        let begin = Instant::now();
        let listed = api::get(node, "/services")?;
        times.push(begin.elapsed());
        ensure!(
            listed.as_array().is_some_and(|all| all.len() == LISTED),
            "{listed}"
        );
    }
    let names: Vec<String> = (0..LISTED).map(|number| format!("listed{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    side.any()?
        .docker_ok(&[&["service", "rm"], &names[..]].concat())?;
    times.sort();
    Ok(seconds(times[times.len() / 2]) * 1000.0)
}

pub fn list_leader(side: &Side) -> Result<f64> {
    list(side, Side::leader)
}

pub fn list_follower(side: &Side) -> Result<f64> {
    list(side, Side::follower)
}

/// The share of a core that the leader's control plane uses while fifty commands wait for a service that cannot run.
pub fn waiting(side: &Side) -> Result<f64> {
    let leader = side.leader()?;
    let create = [
        "service",
        "create",
        "--quiet",
        "--detach",
        "--name",
        "never",
        "--constraint",
        "node.hostname==nowhere",
        "skep-test",
    ];
    leader.docker_ok(&create)?;
    let mut waiting = Vec::new();
    for number in 0..WAITING {
        let mut command =
            leader.docker_command(&["service", "update", "--env-add", &format!("N={number}"), "never"]);
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        waiting.push(command.spawn().context("start a docker command")?);
    }
    std::thread::sleep(WATCHED / 2);
    let used = cpu_seconds(leader)?;
    std::thread::sleep(WATCHED);
    let used = cpu_seconds(leader)? - used;
    for child in &mut waiting {
        child.kill().context("end a docker command")?;
        child.wait()?;
    }
    side.remove("never")?;
    Ok(used / WATCHED.as_secs_f64())
}

/// Time that the control plane's process has run, in seconds (proc_pid_stat(5), fields 14 and 15).
fn cpu_seconds(node: &Node) -> Result<f64> {
    let pid = node.agent().or_else(|_| node.dockerd())?.pid;
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = ticks(11)
        .zip(ticks(12))
        .with_context(|| format!("/proc/{pid}/stat: {text}"))?;
    // USER_HZ is 100 on every architecture that Linux tells user space of.
    Ok((user + system) / 100.0)
}

/// What a swarm adds to the process, and the whole of the agent, which is a process of its own.
pub fn memory(side: &Side) -> Result<f64> {
    let [before, after] = side.memory;
    let is_skep = side.cluster.node(1).agent().is_ok();
    Ok(if is_skep { after } else { after - before } / 1024.0)
}
