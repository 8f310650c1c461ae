//! `demo ingress`: the node that holds an address is killed; the address and the connections through it go on.

mod sessions;

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use skep_tests::{Node, SessionKind, swarm, until};

use super::PATIENCE;
use super::points;
use super::stage::Stage;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 100);
/// The service whose tasks are elsewhere, and the one whose only task is on the holder.
const PORT: u16 = 8080;
const DOOMED_PORT: u16 = 8081;
const WATCHED: Duration = Duration::from_secs(12);
const BEFORE_KILL: Duration = Duration::from_secs(3);

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
    let (holder, took) = until("a holder", PATIENCE, || Ok(entry(stage, node)?.holder))?;
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

/// The node that holds the address now, in the eyes of `asked`.
fn holder<'a>(stage: &Stage<'a>, asked: &Node) -> Result<&'a Node> {
    let name = entry(stage, asked)?.holder;
    let node = stage
        .cluster
        .nodes
        .iter()
        .find(|node| Some(node.name()) == name.as_deref());
    node.with_context(|| format!("the holder is {name:?}"))
}

fn deploy(stage: &Stage<'_>) -> Result<String> {
    let node = stage.cluster.node(1);
    let holder = holder(stage, node)?.name();
    println!(
        "\nA connection to a task ends with the task's node; so web runs on the two nodes that do not hold\n\
         the address, and doomed runs on {holder} alone, to show that as well."
    );
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
            // No registry is asked in a demo.
            "--no-resolve-image",
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

fn kill_holder(stage: &Stage<'_>) -> Result<String> {
    let victim = holder(stage, stage.cluster.node(1))?;
    let other = other_than(stage, victim)?;
    let mut tasks = swarm::containers(stage.cluster, "web")?;
    ensure!(
        tasks.iter().all(|task| task.node != victim.number()),
        "web runs on the holder: {tasks:?}"
    );
    tasks.extend(swarm::containers(stage.cluster, "doomed")?);
    let target = (ADDRESS, PORT);
    let running = [
        sessions::start(stage, "download", SessionKind::Stream, target, WATCHED)?,
        sessions::start(stage, "idle", SessionKind::Idle, target, WATCHED)?,
        sessions::start(stage, "echo", SessionKind::Echo, target, WATCHED)?,
    ];
    let doomed = sessions::start(
        stage,
        "doomed",
        SessionKind::Echo,
        (ADDRESS, DOOMED_PORT),
        WATCHED,
    )?;
    let answers = sessions::start_answers(stage, target, WATCHED)?;
    thread::sleep(BEFORE_KILL);
    stage.skep(victim, &["ingress", "ls"])?;
    let pid = victim.space()?.init().pid;
    println!(
        "\n# kill -9 {pid}        (the first process of {}, and with it all others)",
        victim.name()
    );
    let killed_ms = victim.kill_now()?;
    let (now, _) = until("another holder", PATIENCE, || {
        let now = entry(stage, other)?;
        let moved = now.holder.as_deref().is_some_and(|name| name != victim.name());
        Ok(moved.then_some(now))
    })?;
    stage.skep(other, &["ingress", "ls"])?;
    sessions::show_header();
    let mut gaps = Vec::new();
    for session in running {
        let (title, session) = session.finish()?;
        sessions::show(title, &session, &tasks, killed_ms);
        ensure!(session.ok, "the {title} did not go on: {session:?}");
        if session.kind != SessionKind::Idle {
            gaps.push(format!("{title} {:.2} s", session.longest_gap_ms as f64 / 1000.0));
        }
    }
    let (title, ended) = doomed.finish()?;
    sessions::show(title, &ended, &tasks, killed_ms);
    ensure!(!ended.ok, "a session outlived its task: {ended:?}");
    let answered = answers.finish()?;
    sessions::show_answers(&answered);
    Ok(format!(
        "{} holds it now ({}); the address was silent for {:.3} s; download, idle session and echo went on (longest gaps: {})",
        now.holder.unwrap_or_default(),
        now.reason,
        answered.longest_gap_ms as f64 / 1000.0,
        gaps.join(", ")
    ))
}

fn other_than<'a>(stage: &Stage<'a>, node: &Node) -> Result<&'a Node> {
    let mut living = stage.cluster.nodes.iter().filter(|other| other.is_alive());
    living
        .find(|other| other.number() != node.number())
        .context("no other node lives")
}

fn move_address(stage: &Stage<'_>) -> Result<String> {
    let Some(dead) = stage.cluster.nodes.iter().find(|node| !node.is_alive()) else {
        bail!("no node is dead");
    };
    println!("\n# {} is switched on again", dead.name());
    dead.revive()?;
    let node = other_than(stage, dead)?;
    swarm::wait_for_nodes(node, stage.cluster.nodes.len(), PATIENCE)?;
    let before = holder(stage, node)?;
    // Not the one that came back: back soon enough it is still the first owner, and would get the address anyhow.
    let mut living = stage
        .cluster
        .nodes
        .iter()
        .filter(|node| node.number() != dead.number());
    let to = living
        .find(|node| node.number() != before.number())
        .context("no third node")?;
    let answers = sessions::start_answers(stage, (ADDRESS, PORT), WATCHED)?;
    thread::sleep(BEFORE_KILL);
    // The command ends when that node holds the address.
    let begin = Instant::now();
    stage.skep(node, &["ingress", "move", &ADDRESS.to_string(), to.name()])?;
    let took = begin.elapsed();
    ensure!(
        entry(stage, node)?.holder.as_deref() == Some(to.name()),
        "{} does not hold the address",
        to.name()
    );
    stage.skep(node, &["ingress", "ls"])?;
    println!();
    let answered = answers.finish()?;
    sessions::show_answers(&answered);
    Ok(format!(
        "from {} to {} within {:.1} s; {} of {} questions were answered, longest gap {:.3} s",
        before.name(),
        to.name(),
        took.as_secs_f64(),
        answered.answered,
        answered.asked,
        answered.longest_gap_ms as f64 / 1000.0
    ))
}
