//! The harness itself: nodes are machines of their own, and nothing is left of them.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use skep_tests::router::{self, Router};
use skep_tests::watcher::{Heard, Watcher, longest_overlap_ms};
use skep_tests::{Cluster, Node, SessionKind, suite, swarm, until};

fn main() -> ExitCode {
    let make = || {
        let cluster = Cluster::builder("harness").nodes(3).without_agent().build()?;
        println!(
            "three nodes in {:.1?}, logs in {}",
            cluster.built_in(),
            cluster.logs().display()
        );
        Ok(cluster)
    };
    suite::run(
        make,
        &[
            ("containers_run_on_every_node", containers_run_on_every_node),
            (
                "nodes_have_names_and_files_of_their_own",
                nodes_have_names_and_files_of_their_own,
            ),
            ("the_client_sees_the_nodes", the_client_sees_the_nodes),
            (
                "a_cut_node_is_unreachable_until_healed",
                a_cut_node_is_unreachable_until_healed,
            ),
            (
                "a_node_cut_behind_its_port_keeps_its_carrier",
                a_node_cut_behind_its_port_keeps_its_carrier,
            ),
            (
                "sessions_live_through_a_pause_and_show_it",
                sessions_live_through_a_pause_and_show_it,
            ),
            (
                "the_watcher_hears_who_has_an_address",
                the_watcher_hears_who_has_an_address,
            ),
            ("the_router_spreads_flows", the_router_spreads_flows),
            (
                "a_killed_node_is_dead_and_starts_again_with_its_disk",
                a_killed_node_is_dead_and_starts_again_with_its_disk,
            ),
            (
                "dockers_own_swarm_runs_on_the_nodes",
                dockers_own_swarm_runs_on_the_nodes,
            ),
            ("nothing_is_left_of_a_run", nothing_is_left_of_a_run),
        ],
    )
}

fn containers_run_on_every_node(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        let printed = node.docker_ok(&["run", "--rm", "busybox", "echo", "hello"])?;
        ensure!(printed == "hello", "{printed}");
        let started = node.docker_ok(&["run", "-d", "--name", "server", "skep-test"])?;
        let seen = skep_tests::client::replies(&node.docker(&[
            "exec",
            "server",
            "skep-testbox",
            "get",
            "http://127.0.0.1/",
        ])?)?;
        ensure!(started.starts_with(&seen[0].seen()?.hostname), "{seen:?}");
        node.docker_ok(&["rm", "-f", "server"])?;
    }
    Ok(())
}

fn nodes_have_names_and_files_of_their_own(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        ensure!(node.docker_ok(&["info", "--format", "{{.Name}}"])? == node.name());
        ensure!(node.docker_ok(&["ps", "-aq"])?.is_empty());
        ensure!(
            node.exec(&["ls", "/run/docker/plugins", "/var/lib/skep"])?
                .success()
        );
        let policy = node.exec(&["iptables", "-S", "FORWARD"])?.ok()?;
        ensure!(policy.contains("-P FORWARD DROP"), "{policy}");
        node.exec(&["mkdir", &format!("/sys/fs/bpf/{}", node.name())])?
            .ok()?;
        let pinned = node
            .exec(&[
                "ls",
                "-d",
                "/sys/fs/bpf/node1",
                "/sys/fs/bpf/node2",
                "/sys/fs/bpf/node3",
            ])?
            .stdout;
        ensure!(
            pinned.trim() == format!("/sys/fs/bpf/{}", node.name()),
            "{pinned}"
        );
    }
    Ok(())
}

fn reachable(cluster: &Cluster, address: &str) -> Result<bool> {
    Ok(cluster
        .client
        .exec(&["busybox", "ping", "-c", "1", "-W", "1", address])?
        .success())
}

fn the_client_sees_the_nodes(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        ensure!(
            reachable(cluster, &node.address().to_string())?,
            "{}",
            node.name()
        );
        let outside = node.exec(&[
            "busybox",
            "ping",
            "-c",
            "1",
            "-W",
            "1",
            &skep_tests::network::OUTSIDE_ADDRESS.to_string(),
        ])?;
        ensure!(outside.success(), "{outside}");
    }
    Ok(())
}

fn a_cut_node_is_unreachable_until_healed(cluster: &Cluster) -> Result<()> {
    let address = cluster.node(2).address().to_string();
    cluster.node(2).cut()?;
    ensure!(!reachable(cluster, &address)?);
    cluster.node(2).heal()?;
    until("node2 answers", Duration::from_secs(10), || {
        Ok(reachable(cluster, &address)?.then_some(()))
    })?;
    Ok(())
}

fn a_node_cut_behind_its_port_keeps_its_carrier(cluster: &Cluster) -> Result<()> {
    let (first, second) = (cluster.node(1), cluster.node(2));
    let carrier = |node: &Node| node.exec(&["cat", "/sys/class/net/eth0/carrier"])?.ok();
    let address = second.address().to_string();
    second.cut_behind()?;
    ensure!(!reachable(cluster, &address)? && carrier(second)? == "1");
    second.heal_behind()?;
    ensure!(reachable(cluster, &address)?);
    second.cut()?;
    ensure!(carrier(second)? == "0");
    second.heal()?;
    // Parted from each other, but from nobody else.
    let ping = || first.exec(&["busybox", "ping", "-c", "1", "-W", "1", &address]);
    ensure!(ping()?.success());
    first.part(true)?;
    second.part(true)?;
    ensure!(!ping()?.success() && reachable(cluster, &address)?);
    first.part(false)?;
    second.part(false)?;
    ensure!(ping()?.success());
    Ok(())
}

fn sessions_live_through_a_pause_and_show_it(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(1);
    let _server = node.start_testbox(&["serve", "--port", "9000"])?;
    let address = format!("{}:9000", node.address());
    until("the server answers", Duration::from_secs(10), || {
        Ok(cluster.client.get(&format!("http://{address}/"), 1)?[0]
            .ok
            .then_some(()))
    })?;
    let kinds = [
        (SessionKind::Echo, 10),
        (SessionKind::Idle, 200),
        (SessionKind::Stream, 5),
        (SessionKind::Udp, 5),
    ];
    let length = Duration::from_secs(30);
    let start = |(kind, count)| {
        let interval = Duration::from_millis(10);
        cluster
            .client
            .start_sessions(&address, kind, count, length, interval)
    };
    let sessions = kinds.map(start).into_iter().collect::<Result<Vec<_>>>()?;
    let connects = cluster
        .client
        .start_connects(&address, 100, Duration::from_secs(2))?;
    let answers = cluster.client.start_answers(
        &node.address().to_string(),
        9000,
        Duration::from_millis(5),
        Duration::from_secs(2),
    )?;
    std::thread::sleep(Duration::from_millis(500));
    node.pause(Duration::from_millis(400))?;
    let (connects, answers) = (connects.finish()?, answers.finish()?);
    ensure!(connects.failed == 0 && connects.connects == 200, "{connects:?}");
    ensure!(
        answers.longest_gap_ms > 350 && answers.answered == answers.asked,
        "{answers:?}"
    );
    for (sessions, (kind, count)) in sessions.into_iter().zip(kinds) {
        let sessions = sessions.stop()?;
        ensure!(sessions.len() == count);
        for session in sessions {
            ensure!(session.ok && session.task == node.name(), "{session:?}");
            let saw = session.longest_gap_ms > 300;
            ensure!(saw || kind == SessionKind::Idle, "{session:?}");
        }
    }
    let info = node.docker(&["info"])?;
    ensure!(info.success(), "dockerd did not wake: {info}");
    Ok(())
}

fn the_watcher_hears_who_has_an_address(cluster: &Cluster) -> Result<()> {
    let watcher = Watcher::start(cluster)?;
    let addresses = [1, 2].map(|number| cluster.node(number).address().to_string());
    let both = addresses.each_ref().map(String::as_str);
    let watching = watcher.watch(&both, Duration::from_secs(2))?;
    std::thread::sleep(Duration::from_millis(700));
    // A second one who says it is his.
    let duplicate = format!("{}/24", addresses[0]);
    let third = cluster.node(3);
    third
        .exec(&["ip", "address", "add", &duplicate, "dev", "eth0"])?
        .ok()?;
    std::thread::sleep(Duration::from_millis(600));
    third
        .exec(&["ip", "address", "del", &duplicate, "dev", "eth0"])?
        .ok()?;
    let heard = watching.finish()?;
    let of = |address: &str| {
        heard
            .iter()
            .filter(|claim| claim.address.to_string() == address)
            .cloned()
            .collect()
    };
    let (first, second): (Vec<Heard>, Vec<Heard>) = (of(both[0]), of(both[1]));
    ensure!(second.len() > 20, "asked {} times in 2 s", second.len());
    for claim in &second {
        ensure!(claim.node()? == 2, "{claim:?}");
    }
    let overlap = longest_overlap_ms(&first);
    ensure!(
        (300..1500).contains(&overlap),
        "overlap of {overlap} ms: {first:?}"
    );
    ensure!(longest_overlap_ms(&second) == 0);
    Ok(())
}

fn the_router_spreads_flows(cluster: &Cluster) -> Result<()> {
    let router = Router::start(cluster)?;
    let mut servers = Vec::new();
    for node in &cluster.nodes {
        router.prepare(node)?;
        servers.push(node.start_testbox(&["serve", "--port", "9001"])?);
    }
    let nodes: Vec<&Node> = cluster.nodes.iter().collect();
    let url = format!("http://{}:9001/", router::ANYCAST_ADDRESS);
    for count in [3, 1] {
        router.spread(&nodes[..count])?;
        let replies = until("all servers answer", Duration::from_secs(10), || {
            let replies = cluster.client.get(&url, 60)?;
            Ok((skep_tests::client::count_by_host(&replies)?.len() == count).then_some(replies))
        })?;
        ensure!(replies.0[0].seen()?.client == router::FAR_CLIENT.to_string());
    }
    Ok(())
}

fn a_killed_node_is_dead_and_starts_again_with_its_disk(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(3);
    node.docker_ok(&["run", "-d", "--name", "old", "busybox", "sleep", "1000"])?;
    let dockerd = node.dockerd()?;
    ensure!(dockerd.is_alive());
    node.kill()?;
    ensure!(!node.is_alive() && !dockerd.is_alive());
    ensure!(!reachable(cluster, &node.address().to_string())?);
    node.start()?;
    let state = node.docker_ok(&["ps", "-a", "--format", "{{.Names}} {{.State}}"])?;
    ensure!(state == "old exited", "{state}");
    ensure!(reachable(cluster, &node.address().to_string())?);
    Ok(())
}

/// Real Swarm shows that the nodes are good enough for an orchestrator, and that the questions of
/// [`swarm`] are asked as Swarm answers them. (It has no VIPs here: those need IPVS.)
fn dockers_own_swarm_runs_on_the_nodes(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(1);
    swarm::form(cluster)?;
    node.docker_ok(&["network", "create", "-d", "overlay", "app"])?;
    node.docker_ok(&[
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--replicas",
        "6",
        "--network",
        "app",
        "skep-test",
    ])?;
    swarm::wait_for_replicas(node, "web", "6/6", Duration::from_secs(60))?;
    let tasks = swarm::containers(cluster, "web")?;
    ensure!(
        tasks.len() == 6 && tasks.iter().all(|task| task.name.starts_with("web.")),
        "{tasks:?}"
    );
    let vip = swarm::virtual_ip(node, "web", "app")?;
    for task in tasks.iter().take(2) {
        let node = cluster.node(task.node);
        ensure!(swarm::resolve(node, &task.name, "web")?.contains(&vip));
        ensure!(swarm::resolve(node, &task.name, "tasks.web")?.len() == 6);
    }
    node.docker_ok(&["service", "rm", "web"])?;
    until("no container", Duration::from_secs(60), || {
        Ok(swarm::containers(cluster, "web")?.is_empty().then_some(()))
    })?;
    Ok(())
}

fn nothing_is_left_of_a_run(_: &Cluster) -> Result<()> {
    let cluster = Cluster::builder("left").without_agent().build()?;
    let node = cluster.node(1);
    node.docker_ok(&["run", "-d", "busybox", "sleep", "1000"])?;
    let (first, directory) = (node.space()?.init(), cluster.directory().to_path_buf());
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo");
    ensure!(!mounts()?.contains("skep-left"));
    drop(cluster);
    ensure!(!first.is_alive());
    for path in [
        directory.as_path(),
        Path::new("/run/skep-left"),
        Path::new("/var/lib/skep-left"),
    ] {
        ensure!(!path.exists(), "{} is left", path.display());
    }
    let groups = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-name", "skep-left*"])
        .output()?;
    ensure!(
        groups.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&groups.stdout)
    );
    Ok(())
}
