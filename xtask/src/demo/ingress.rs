//! `demo ingress`: the node that holds an address is killed; the address and the connections through it go on.

use std::net::Ipv4Addr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use skep_tests::client::{Load, unix_ms};
use skep_tests::swarm::{self, TaskContainer};
use skep_tests::{Node, until};

use super::PATIENCE;
use super::points;
use super::stage::Stage;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 200);
/// The service whose tasks are elsewhere, and the one whose only task is on the holder.
const PORT: u16 = 8080;
const DOOMED_PORT: u16 = 8081;
const SECONDS: u32 = 12;
const BEFORE_KILL: Duration = Duration::from_secs(3);
const QUESTIONS_MS: &str = "5";

/// Shows all points. The killed node is started again, so that three are left.
pub fn show(stage: &Stage<'_>) -> Result<()> {
    stage.explain_skep(stage.cluster.node(1));
    stage.point("1. A swarm of three managers", || points::swarm_of_three(stage))?;
    stage.point("2. An address that belongs to the swarm", || add_address(stage))?;
    stage.point("3. A service whose tasks are not on the holder", || deploy(stage))?;
    stage.point("4. The holder is killed under three sessions", || {
        kill_holder(stage)
    })?;
    stage.point("5. The node comes back, and the address is moved by hand", || {
        move_address(stage)
    })
}

fn add_address(stage: &Stage<'_>) -> Result<String> {
    let node = stage.cluster.node(1);
    stage.skep(node, &["ingress", "address", "add", &format!("{ADDRESS}/24")])?;
    let begin = Instant::now();
    let (holder, _) = until("a holder", PATIENCE, || Ok(entry(stage, node)?.holder))?;
    let took = begin.elapsed();
    stage.skep(node, &["ingress", "ls"])?;
    Ok(format!("{holder} holds it after {:.1} s", took.as_secs_f64()))
}

/// What `skep ingress ls -o json` says of the address.
struct Entry {
    holder: Option<String>,
    reason: String,
}

fn entry(stage: &Stage<'_>, node: &Node) -> Result<Entry> {
    let text = stage.skep_unseen(node, &["ingress", "ls", "-o", "json"])?;
    let list: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let wanted = ADDRESS.to_string();
    let mut entries = list.as_array().into_iter().flatten();
    let found = entries.find(|entry| {
        let address = entry["address"].as_str().and_then(|text| text.split('/').next());
        address == Some(&wanted)
    });
    let found = found.with_context(|| format!("{ADDRESS} is not in {text}"))?;
    Ok(Entry {
        holder: found["holder"].as_str().map(ToString::to_string),
        reason: found["reason"].as_str().unwrap_or_default().to_string(),
    })
}

/// The node that holds the address now.
fn holder<'a>(stage: &Stage<'a>) -> Result<&'a Node> {
    let asked = stage.cluster.nodes.iter().find(|node| node.is_alive());
    let name = entry(stage, asked.context("no node lives")?)?.holder;
    let node = stage
        .cluster
        .nodes
        .iter()
        .find(|node| Some(node.name()) == name.as_deref());
    node.with_context(|| format!("the holder is {name:?}"))
}

fn deploy(stage: &Stage<'_>) -> Result<String> {
    let holder = holder(stage)?.name();
    println!(
        "\nA connection to a task ends with the task's node; so web runs on the two nodes that do not hold\n\
         the address, and doomed runs on {holder} alone, to show that as well."
    );
    let node = stage.cluster.node(1);
    create(stage, node, "web", "2", &format!("node.hostname!={holder}"), PORT)?;
    create(
        stage,
        node,
        "doomed",
        "1",
        &format!("node.hostname=={holder}"),
        DOOMED_PORT,
    )?;
    stage.docker(node, &["service", "ls"])?;
    for port in [PORT, DOOMED_PORT] {
        let url = format!("http://{ADDRESS}:{port}/");
        let (reply, _) = until("an answer through the address", PATIENCE, || {
            let replies = stage.cluster.client.get(&url, 1)?;
            Ok(replies.into_iter().find(|reply| reply.ok))
        })?;
        stage.client_line(&format!("skep-testbox get {url}"));
        println!("{}", reply.body.trim());
        let seen = reply.seen()?.client;
        ensure!(
            seen == stage.cluster.client.address().to_string(),
            "the server saw {seen}, not the client's own address"
        );
    }
    Ok("answers through the address, and the task sees the client's own address".to_string())
}

fn create(
    stage: &Stage<'_>,
    node: &Node,
    name: &str,
    replicas: &str,
    constraint: &str,
    port: u16,
) -> Result<()> {
    let (tcp, udp) = (format!("{port}:80"), format!("{port}:80/udp"));
    stage.docker(
        node,
        &[
            "service",
            "create",
            "--quiet",
            "--name",
            name,
            "--replicas",
            replicas,
            "--constraint",
            constraint,
            "--publish",
            &tcp,
            "--publish",
            &udp,
            "skep-test",
        ],
    )?;
    swarm::wait_for_replicas(node, name, &format!("{replicas}/{replicas}"), PATIENCE)?;
    Ok(())
}

/// A program of the client under way; it is waited for by a thread, which also knows when it ended.
struct Running {
    title: &'static str,
    thread: JoinHandle<(Result<String>, u128)>,
}

impl Running {
    fn start(stage: &Stage<'_>, title: &'static str, arguments: &[&str]) -> Result<Self> {
        stage.client_line(&format!("skep-testbox {} &", arguments.join(" ")));
        let load: Load = stage.cluster.client.start(arguments)?;
        let thread = thread::spawn(move || (load.output(), unix_ms()));
        Ok(Self { title, thread })
    }

    /// The one line that it printed, and when it ended.
    fn finish(self) -> Result<(Value, u128)> {
        let (text, ended_ms) = self.thread.join().map_err(|_| anyhow::anyhow!("panicked"))?;
        let text = text?;
        let line = text.lines().next_back().context("it printed nothing")?;
        let value = serde_json::from_str(line).with_context(|| format!("line {line:?}"))?;
        Ok((value, ended_ms))
    }
}

fn session(stage: &Stage<'_>, title: &'static str, kind: &str, port: u16) -> Result<Running> {
    let (target, seconds) = (format!("{ADDRESS}:{port}"), SECONDS.to_string());
    let arguments = [
        "session",
        &target,
        "--kind",
        kind,
        "--count",
        "1",
        "--seconds",
        &seconds,
    ];
    Running::start(stage, title, &arguments)
}

fn answers(stage: &Stage<'_>, seconds: u32) -> Result<Running> {
    let (address, port, seconds) = (ADDRESS.to_string(), PORT.to_string(), seconds.to_string());
    let arguments = [
        "answers",
        &address,
        "--port",
        &port,
        "--interval-ms",
        QUESTIONS_MS,
        "--seconds",
        &seconds,
    ];
    Running::start(stage, "the address itself", &arguments)
}

fn kill_holder(stage: &Stage<'_>) -> Result<String> {
    let victim = holder(stage)?;
    let tasks = swarm::containers(stage.cluster, "web")?;
    ensure!(
        tasks.iter().all(|task| task.node != victim.number()),
        "web runs on the holder: {tasks:?}"
    );
    let sessions = [
        session(stage, "download", "stream", PORT)?,
        session(stage, "idle", "idle", PORT)?,
        session(stage, "echo", "echo", PORT)?,
    ];
    let doomed = session(stage, "doomed", "echo", DOOMED_PORT)?;
    let answers = answers(stage, SECONDS)?;
    thread::sleep(BEFORE_KILL);
    stage.skep(victim, &["ingress", "ls"])?;
    let pid = victim.space()?.init().pid;
    println!(
        "\n# kill -9 {pid}        (the first process of {}, and with it all others)",
        victim.name()
    );
    let killed_ms = unix_ms();
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    let other = stage
        .cluster
        .nodes
        .iter()
        .find(|node| node.number() != victim.number());
    let other = other.context("no other node")?;
    let (now, _) = until("another holder", PATIENCE, || {
        let now = entry(stage, other)?;
        let moved = now.holder.as_deref().is_some_and(|name| name != victim.name());
        Ok(moved.then_some(now))
    })?;
    stage.skep(other, &["ingress", "ls"])?;
    println!("\nsession             served by         exchanges        bytes  longest gap");
    let mut gaps = Vec::new();
    for running in sessions {
        let title = running.title;
        let (line, _) = running.finish()?;
        show_session(title, &line, &tasks);
        ensure!(line["ok"] == true, "{title}: {line}");
        gaps.push(format!("{title} {:.2} s", seconds(&line)?));
    }
    let (line, _) = answers.finish()?;
    let silent = seconds(&line)?;
    println!(
        "the address itself: of {} questions, one every {QUESTIONS_MS} ms, {} were answered; longest gap {silent:.3} s",
        line["asked"], line["answered"]
    );
    let (line, ended_ms) = doomed.finish()?;
    ensure!(line["ok"] == false, "a session outlived its task's node: {line}");
    println!(
        "doomed, whose task was on {}: {} ({} ms after the kill)",
        victim.name(),
        line["error"],
        ended_ms.saturating_sub(killed_ms)
    );
    Ok(format!(
        "{} holds it now ({}); the address was silent for {silent:.3} s; all three sessions went on, longest gaps: {}",
        now.holder.unwrap_or_default(),
        now.reason,
        gaps.join(", ")
    ))
}

fn seconds(line: &Value) -> Result<f64> {
    let gap = line["longest_gap_ms"].as_f64();
    Ok(gap.with_context(|| format!("no gap in {line}"))? / 1000.0)
}

fn show_session(title: &str, line: &Value, tasks: &[TaskContainer]) {
    let host = line["task"].as_str().unwrap_or_default();
    let task = tasks.iter().find(|task| task.hostname() == host);
    let task = task.map_or_else(
        || host.to_string(),
        |task| format!("{} on node{}", task.short_name(), task.node),
    );
    println!(
        "{title:<18}  {task:<16}  {:>9}  {:>11}  {:>8} ms",
        line["exchanges"].to_string(),
        line["bytes"].to_string(),
        line["longest_gap_ms"].to_string(),
    );
}

fn move_address(stage: &Stage<'_>) -> Result<String> {
    let Some(dead) = stage.cluster.nodes.iter().find(|node| !node.is_alive()) else {
        bail!("no node is dead");
    };
    println!("\n# {} is switched on again", dead.name());
    dead.kill()?;
    dead.start()?;
    let living = stage
        .cluster
        .nodes
        .iter()
        .find(|node| node.number() != dead.number());
    let living = living.context("no other node")?;
    swarm::wait_for_nodes(living, stage.cluster.nodes.len(), PATIENCE)?;
    let before = holder(stage)?;
    let to = stage
        .cluster
        .nodes
        .iter()
        .find(|node| node.number() != before.number());
    let to = to.context("no other node")?;
    let answers = answers(stage, SECONDS)?;
    thread::sleep(Duration::from_secs(2));
    stage.skep(living, &["ingress", "move", &ADDRESS.to_string(), to.name()])?;
    let begin = Instant::now();
    until(&format!("{} holds", to.name()), PATIENCE, || {
        Ok((entry(stage, living)?.holder.as_deref() == Some(to.name())).then_some(()))
    })?;
    let took = begin.elapsed();
    stage.skep(living, &["ingress", "ls"])?;
    let (line, _) = answers.finish()?;
    println!(
        "\nof {} questions, one every {QUESTIONS_MS} ms, {} were answered; longest gap {:.3} s",
        line["asked"],
        line["answered"],
        seconds(&line)?
    );
    Ok(format!(
        "moved from {} to {} within {:.1} s; the longest time without an answer was {:.3} s",
        before.name(),
        to.name(),
        took.as_secs_f64(),
        seconds(&line)?
    ))
}
