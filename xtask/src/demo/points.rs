//! The six points of the demo, each checked; the first that is not as promised ends it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep_tests::swarm::{self, TaskContainer};
use skep_tests::{client, until};

use super::PATIENCE;
use super::stage::Stage;

const REQUESTS: usize = 60;

/// Shows all points; with `keep` no node dies, since three are to be left.
pub fn show(stage: &Stage<'_>, keep: bool) -> Result<()> {
    stage.point("1. A swarm of three managers", || swarm_of_three(stage))?;
    stage.point("2. A service with six replicas, published on port 8080", || {
        deploy(stage)
    })?;
    stage.point("3. From outside, through each node", || from_outside(stage))?;
    stage.point("4. By name, from a container on each node", || by_name(stage))?;
    stage.point("5. A task's container is killed", || kill_container(stage))?;
    if keep {
        println!("\n(no node is killed, since the cluster is to be kept)");
    } else {
        stage.point("5. A whole node is killed under load", || kill_node(stage))?;
    }
    stage.point("6. Scale, remove, and everything is gone", || remove(stage))
}

pub fn swarm_of_three(stage: &Stage<'_>) -> Result<String> {
    let first = stage.cluster.node(1);
    stage.docker(
        first,
        &["swarm", "init", "--advertise-addr", &first.address().to_string()],
    )?;
    let token = stage.docker(first, &["swarm", "join-token", "--quiet", "manager"])?;
    for node in &stage.cluster.nodes[1..] {
        stage.docker(
            node,
            &[
                "swarm",
                "join",
                "--token",
                &token,
                &format!("{}:2377", first.address()),
            ],
        )?;
    }
    swarm::wait_for_nodes(first, 3, PATIENCE)?;
    stage.docker(first, &["node", "ls"])?;
    Ok("three Ready nodes, one Leader".to_string())
}

fn deploy(stage: &Stage<'_>) -> Result<String> {
    let node = stage.cluster.node(1);
    stage.docker(node, &["network", "create", "--driver", "overlay", "app"])?;
    let begin = Instant::now();
    stage.docker(
        node,
        &[
            "service",
            "create",
            "--name",
            "web",
            "--replicas",
            "6",
            "--network",
            "app",
            "--publish",
            "8080:80",
            "skep-test",
        ],
    )?;
    let created = begin.elapsed();
    swarm::wait_for_replicas(node, "web", "6/6", PATIENCE)?;
    // Any manager answers.
    stage.docker(stage.cluster.node(2), &["service", "ls"])?;
    stage.docker(node, &["service", "ps", "web"])?;
    Ok(format!(
        "6/6; the command returned after {:.1} s, converged",
        created.as_secs_f64()
    ))
}

/// Task names of the service by the host name of their container.
fn names(tasks: &[TaskContainer]) -> BTreeMap<String, String> {
    tasks
        .iter()
        .map(|task| (task.hostname().to_string(), task.short_name().to_string()))
        .collect()
}

fn from_outside(stage: &Stage<'_>) -> Result<String> {
    let tasks = swarm::containers(stage.cluster, "web")?;
    ensure!(
        tasks.len() == 6,
        "six containers were to run, {} do: {tasks:?}",
        tasks.len()
    );
    let names = names(&tasks);
    let mut all = BTreeSet::new();
    let mut rows = Vec::new();
    for node in &stage.cluster.nodes {
        let url = format!("http://{}:8080/", node.address());
        stage.client_line(&format!("skep-testbox get {url} --count {REQUESTS}"));
        let replies = stage.cluster.client.get(&url, REQUESTS)?;
        let mut clients = BTreeSet::new();
        for reply in &replies {
            clients.insert(reply.seen()?.client);
        }
        let counts = client::count_by_host(&replies)?;
        let mut cells = Vec::new();
        for (host, count) in &counts {
            cells.push(format!(
                "{} x{count}",
                names.get(host).map_or(host.as_str(), String::as_str)
            ));
        }
        let seen: Vec<String> = clients.into_iter().collect();
        rows.push(format!(
            "{:<6} {:<18} {}",
            node.name(),
            seen.join(" "),
            cells.join("  ")
        ));
        ensure!(
            seen == [stage.cluster.client.address().to_string()],
            "the server saw {seen:?}, not the client's own address"
        );
        all.extend(counts.into_keys());
    }
    println!(
        "\nnode   client as seen     tasks that answered\n{}",
        rows.join("\n")
    );
    ensure!(all.len() == 6, "only {} of six tasks answered", all.len());
    let total = REQUESTS * stage.cluster.nodes.len();
    Ok(format!(
        "{total} requests through three nodes, none failed, all six tasks answered, the client's address kept"
    ))
}

fn by_name(stage: &Stage<'_>) -> Result<String> {
    let tasks = swarm::containers(stage.cluster, "web")?;
    let vip = swarm::virtual_ip(stage.cluster.node(1), "web", "app")?;
    println!("\nThe VIP of web on app is {vip}.");
    for node in &stage.cluster.nodes {
        let Some(task) = tasks.iter().find(|task| task.node == node.number()) else {
            anyhow::bail!("no task runs on {}", node.name());
        };
        println!();
        for name in ["web", "tasks.web"] {
            let output = stage.exec(node, &task.name, &["skep-testbox", "resolve", name])?;
            println!("{}", output.ok()?);
        }
        let own = swarm::resolve(node, &task.name, "web")?;
        ensure!(
            own == BTreeSet::from([vip]),
            "web resolves to {own:?}, not to the VIP"
        );
        let each = swarm::resolve(node, &task.name, "tasks.web")?;
        ensure!(
            each.len() == 6 && !each.contains(&vip),
            "tasks.web resolves to {each:?}, not to six tasks"
        );
        let count = REQUESTS.to_string();
        let output = stage.exec(
            node,
            &task.name,
            &["skep-testbox", "get", "http://web/", "--count", &count],
        )?;
        let hosts = client::count_by_host(&client::replies(&output)?)?;
        println!("{REQUESTS} answers of {} tasks", hosts.len());
        ensure!(
            hosts.len() == 6,
            "requests to the VIP from {} reached {hosts:?}",
            node.name()
        );
    }
    Ok(
        "web is the VIP, tasks.web six addresses; requests to the VIP reach all six tasks from every node"
            .to_string(),
    )
}

fn kill_container(stage: &Stage<'_>) -> Result<String> {
    let victim_node = stage.cluster.node(2);
    let tasks = swarm::containers(stage.cluster, "web")?;
    let Some(victim) = tasks.iter().find(|task| task.node == 2) else {
        anyhow::bail!("no task runs on node2")
    };
    stage.docker(victim_node, &["kill", &victim.name])?;
    let ((), took) = until("six tasks without the killed one", PATIENCE, || {
        let now = swarm::containers(stage.cluster, "web")?;
        Ok((now.len() == 6 && !now.contains(victim)).then_some(()))
    })?;
    swarm::wait_for_replicas(stage.cluster.node(1), "web", "6/6", PATIENCE)?;
    stage.docker(stage.cluster.node(1), &["service", "ps", "web"])?;
    ensure!(took < Duration::from_secs(20), "the replacement took {took:.1?}");
    Ok(format!(
        "replaced after {:.1} s (Swarm's restart delay of 5 s included)",
        took.as_secs_f64()
    ))
}

fn kill_node(stage: &Stage<'_>) -> Result<String> {
    let (first, victim) = (stage.cluster.node(1), stage.cluster.node(3));
    let timeout = Duration::from_secs(5);
    let mut loads = Vec::new();
    println!(
        "\nThe client sends 50 requests a second through node1 and node2 each, and gives up on one after 5 s."
    );
    for node in &stage.cluster.nodes[..2] {
        let url = format!("http://{}:8080/", node.address());
        loads.push((
            node.name(),
            stage
                .cluster
                .client
                .start_get(&url, 2000, Duration::from_millis(20), timeout)?,
        ));
    }
    std::thread::sleep(Duration::from_secs(2));
    let pid = victim.space()?.init().pid;
    println!("\n# kill -9 {pid}        (the first process of node3, and with it all others)");
    let killed = Instant::now();
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    let killed_ms = client::unix_ms();
    let ((), moved) = until("six tasks on the two nodes that are left", PATIENCE, || {
        Ok((swarm::containers(stage.cluster, "web")?.len() == 6).then_some(()))
    })?;
    swarm::wait_for_replicas(first, "web", "6/6", PATIENCE)?;
    stage.docker(first, &["node", "ls"])?;
    stage.docker(
        first,
        &["service", "ps", "--filter", "desired-state=running", "web"],
    )?;
    let mut slowest: f64 = 0.0;
    let mut last_slow_ms = 0;
    let mut total = 0;
    let mut under_way = 0;
    for (name, load) in loads {
        let replies = load.finish()?;
        let (failed, ended) = client::failed_after(&replies, killed_ms);
        ensure!(failed.is_empty(), "requests through {name} failed: {failed:?}");
        under_way += ended;
        for reply in replies.iter().filter(|reply| reply.ok) {
            slowest = slowest.max(reply.ms);
            if reply.ms > 200.0 {
                last_slow_ms = last_slow_ms.max(reply.at_ms);
            }
        }
        total += replies.len();
    }
    ensure!(under_way < 5, "{under_way} requests ended with the node");
    let failed = match under_way {
        0 => "none failed".to_string(),
        ended => format!("{ended} ended with the dying node, no other failed"),
    };
    println!(
        "\n{total} requests, {failed}; the slowest took {slowest:.0} ms ({:.0} s watched)",
        killed.elapsed().as_secs_f64()
    );
    let slow = last_slow_ms.saturating_sub(2000);
    Ok(format!(
        "tasks moved after {:.1} s; {total} requests meanwhile, {failed}, slowest {slowest:.0} ms, last slow one {slow} ms after the kill",
        moved.as_secs_f64()
    ))
}

fn remove(stage: &Stage<'_>) -> Result<String> {
    let node = stage.cluster.node(1);
    stage.docker(node, &["service", "scale", "web=3"])?;
    swarm::wait_for_replicas(node, "web", "3/3", PATIENCE)?;
    until("three containers", PATIENCE, || {
        Ok((swarm::containers(stage.cluster, "web")?.len() == 3).then_some(()))
    })?;
    stage.docker(node, &["service", "ls"])?;
    stage.docker(node, &["service", "rm", "web"])?;
    until("no container", PATIENCE, || {
        Ok(swarm::containers(stage.cluster, "web")?.is_empty().then_some(()))
    })?;
    let ((), _) = until("removal of the network", PATIENCE, || {
        // Its last endpoints go with the last tasks.
        let output = node.docker(&["network", "rm", "app"])?;
        output.ok().map(|_| Some(()))
    })?;
    println!("\nnode1$ docker network rm app\napp");
    for node in stage.cluster.nodes.iter().filter(|node| node.is_alive()) {
        let services = stage.docker(node, &["service", "ls", "--quiet"])?;
        let containers = stage.docker(
            node,
            &[
                "ps",
                "--all",
                "--quiet",
                "--filter",
                "label=com.docker.swarm.task",
            ],
        )?;
        ensure!(
            services.is_empty() && containers.is_empty(),
            "left on {}: {services} {containers}",
            node.name()
        );
    }
    let url = format!("http://{}:8080/", node.address());
    let reply = stage.cluster.client.get(&url, 1)?;
    stage.client_line(&format!("skep-testbox get {url}"));
    println!("{}", reply[0].error);
    ensure!(reply[0].error == "refused", "the port still answers: {reply:?}");
    Ok("scaled to 3/3, removed; no service, no container, the port refuses at once".to_string())
}
