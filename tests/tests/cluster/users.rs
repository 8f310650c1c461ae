//! What users do beside services: containers on attachable networks, the pass-through, updates, the
//! way out.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use skep_tests::suite::Test;
use skep_tests::{Cluster, client, network, swarm, until};

use super::PATIENCE;

pub const TESTS: &[Test<Cluster>] = &[
    (
        "an_attachable_network_takes_plain_containers",
        an_attachable_network_takes_plain_containers,
    ),
    ("networks_do_not_meet", networks_do_not_meet),
    (
        "a_network_that_is_made_again_at_once_is_a_new_one",
        a_network_that_is_made_again_at_once_is_a_new_one,
    ),
    (
        "containers_reach_the_outside_and_its_names",
        containers_reach_the_outside_and_its_names,
    ),
    (
        "streams_pass_through_to_the_engine",
        streams_pass_through_to_the_engine,
    ),
    (
        "a_vip_without_tasks_refuses_at_once",
        a_vip_without_tasks_refuses_at_once,
    ),
    ("an_update_replaces_every_task", an_update_replaces_every_task),
    ("big_packets_arrive", big_packets_arrive),
];

fn an_attachable_network_takes_plain_containers(cluster: &Cluster) -> Result<()> {
    let first = cluster.node(1);
    first.docker_ok(&["network", "create", "-d", "overlay", "--attachable", "tools"])?;
    first.docker_ok(&[
        "service",
        "create",
        "--name",
        "api",
        "--network",
        "tools",
        "skep-test",
    ])?;
    for node in &cluster.nodes {
        let name = format!("tool-{}", node.name());
        node.docker_ok(&["run", "-d", "--name", &name, "--network", "tools", "skep-test"])?;
        ensure!(swarm::ask(node, &name, "http://api/", 3)?.len() == 1);
        let shown = node.docker_ok(&[
            "network",
            "inspect",
            "--format",
            "{{.Driver}} {{.Scope}} {{.Attachable}}",
            "tools",
        ])?;
        ensure!(shown == "overlay swarm true", "{shown}");
    }
    // Each by its container name, from another node.
    let answered = swarm::ask(cluster.node(2), "tool-node2", "http://tool-node3/", 3)?;
    let expected =
        cluster
            .node(3)
            .docker_ok(&["inspect", "--format", "{{.Config.Hostname}}", "tool-node3"])?;
    ensure!(answered == BTreeSet::from([expected]), "{answered:?}");
    for node in &cluster.nodes {
        node.docker_ok(&["rm", "-f", &format!("tool-{}", node.name())])?;
    }
    first.docker_ok(&["service", "rm", "api"])?;
    until("removal of the network", PATIENCE, || {
        first.docker_ok(&["network", "rm", "tools"]).map(Some)
    })?;
    Ok(())
}

fn networks_do_not_meet(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(1);
    node.docker_ok(&["network", "create", "-d", "overlay", "other"])?;
    node.docker_ok(&[
        "service",
        "create",
        "--name",
        "stranger",
        "--network",
        "other",
        "skep-test",
    ])?;
    let tasks = swarm::containers(cluster, "web")?;
    let target = swarm::resolve(cluster.node(tasks[0].node), &tasks[0].name, "tasks.web")?;
    let target = target.first().context("no address")?;
    let stranger = swarm::containers(cluster, "stranger")?;
    let stranger = stranger.first().context("the stranger does not run")?;
    let home = cluster.node(stranger.node);
    ensure!(
        swarm::resolve(home, &stranger.name, "web").is_err(),
        "a name of another network is seen"
    );
    let vip = swarm::virtual_ip(node, "web", "app")?;
    for address in [*target, vip] {
        let url = format!("http://{address}/");
        let output = home.docker(&[
            "exec",
            &stranger.name,
            "skep-testbox",
            "get",
            &url,
            "--timeout-ms",
            "1500",
        ])?;
        let replies = client::replies(&output)?;
        ensure!(
            !replies[0].ok,
            "{address} of another network answered: {replies:?}"
        );
    }
    node.docker_ok(&["service", "rm", "stranger"])?;
    until("removal of the network", PATIENCE, || {
        node.docker_ok(&["network", "rm", "other"]).map(Some)
    })?;
    Ok(())
}

/// Its name and subnet are those of one whose last containers are only just going.
fn a_network_that_is_made_again_at_once_is_a_new_one(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(1);
    for round in 0..3 {
        let name = format!("again{round}");
        node.docker_ok(&[
            "network",
            "create",
            "-d",
            "overlay",
            "--subnet",
            "10.77.0.0/24",
            "again",
        ])?;
        node.docker_ok(&[
            "service",
            "create",
            "--name",
            &name,
            "--replicas",
            "3",
            "--network",
            "again",
            "skep-test",
        ])?;
        let errors = node.docker_ok(&["service", "ps", "--no-trunc", "--format", "{{.Error}}", &name])?;
        ensure!(errors.trim().is_empty(), "round {round}: {errors}");
        node.docker_ok(&["service", "rm", &name])?;
        until("removal of the network", PATIENCE, || {
            node.docker_ok(&["network", "rm", "again"]).map(Some)
        })?;
    }
    Ok(())
}

fn containers_reach_the_outside_and_its_names(cluster: &Cluster) -> Result<()> {
    let outside = network::OUTSIDE_ADDRESS.to_string();
    let names = cluster
        .client
        .start(&["names", &format!("www.example {outside}"), "--listen", &outside])?;
    let server = cluster.client.start(&["serve", "--port", "80"])?;
    let tasks = swarm::containers(cluster, "web")?;
    for number in 1..=3 {
        let task = tasks
            .iter()
            .find(|task| task.node == number)
            .context("no task on the node")?;
        let node = cluster.node(number);
        let output = node.docker(&["exec", &task.name, "skep-testbox", "get", "http://www.example/"])?;
        let seen = client::replies(&output)?[0].seen()?;
        ensure!(
            seen.client == node.address().to_string(),
            "masqueraded as {}",
            seen.client
        );
    }
    drop((names, server));
    Ok(())
}

fn streams_pass_through_to_the_engine(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(2);
    let script = "for i in 1 2 3; do echo line $i; sleep 0.3; done";
    node.docker_ok(&["run", "-d", "--name", "talker", "busybox", "sh", "-c", script])?;
    ensure!(node.docker_ok(&["logs", "-f", "talker"])? == "line 1\nline 2\nline 3");
    ensure!(node.docker_ok(&["wait", "talker"])? == "0");
    let attached = node.docker_ok(&["start", "-a", "talker"])?;
    ensure!(attached == "line 1\nline 2\nline 3", "{attached}");
    node.docker_ok(&["rm", "talker"])?;
    let output = node.docker(&[
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ])?;
    ensure!(
        (output.code, output.stdout.trim(), output.stderr.trim()) == (7, "out", "err"),
        "{output}"
    );
    let images = node.docker_ok(&["images", "--format", "{{.Repository}}"])?;
    ensure!(images.contains("busybox"), "{images}");
    Ok(())
}

fn a_vip_without_tasks_refuses_at_once(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(1);
    node.docker_ok(&[
        "service",
        "create",
        "--name",
        "empty",
        "--network",
        "app",
        "--replicas",
        "1",
        "-p",
        "8090:80",
        "skep-test",
    ])?;
    node.docker_ok(&["service", "scale", "empty=0"])?;
    until("no task", PATIENCE, || {
        Ok(swarm::containers(cluster, "empty")?.is_empty().then_some(()))
    })?;
    let task = swarm::containers(cluster, "web")?
        .into_iter()
        .next()
        .context("web has no task")?;
    let get = ["exec", &task.name, "skep-testbox", "get", "http://empty/"];
    let inside = client::replies(&cluster.node(task.node).docker(&get)?)?;
    let outside = cluster
        .client
        .get(&format!("http://{}:8090/", node.address()), 1)?;
    for reply in inside.iter().chain(&outside) {
        ensure!(
            !reply.ok && reply.error != "timeout" && reply.ms < 1500.0,
            "{reply:?}"
        );
    }
    node.docker_ok(&["service", "rm", "empty"])?;
    Ok(())
}

fn an_update_replaces_every_task(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(3);
    node.docker_ok(&[
        "service",
        "create",
        "--name",
        "app2",
        "--network",
        "app",
        "--replicas",
        "3",
        "--env",
        "TASK=old",
        "skep-test",
    ])?;
    let before: Vec<String> = swarm::containers(cluster, "app2")?
        .into_iter()
        .map(|task| task.id)
        .collect();
    let begin = Instant::now();
    node.docker_ok(&["service", "update", "--env-add", "TASK=new", "app2"])?;
    ensure!(begin.elapsed() < PATIENCE);
    let after = swarm::containers(cluster, "app2")?;
    ensure!(
        after.len() == 3 && after.iter().all(|task| !before.contains(&task.id)),
        "{after:?}"
    );
    for task in &after {
        let output = cluster.node(task.node).docker(&[
            "exec",
            &task.name,
            "skep-testbox",
            "get",
            "http://127.0.0.1/",
        ])?;
        ensure!(client::replies(&output)?[0].seen()?.task == "new");
    }
    node.docker_ok(&["service", "rm", "app2"])?;
    Ok(())
}

/// The MTU that containers have must fit through the tunnel: a full-sized packet that must not be
/// fragmented arrives on another node.
fn big_packets_arrive(cluster: &Cluster) -> Result<()> {
    let tasks = swarm::containers(cluster, "web")?;
    let from = tasks
        .iter()
        .find(|task| task.node == 1)
        .context("no task on node1")?;
    let node = cluster.node(1);
    let mtu = node.docker_ok(&["exec", &from.name, "cat", "/sys/class/net/eth0/mtu"])?;
    let mtu: usize = mtu.parse().with_context(|| format!("MTU {mtu:?}"))?;
    ensure!(
        (1280..=1450).contains(&mtu),
        "an MTU of {mtu} in an underlay of 1500"
    );
    let size = (mtu - 28).to_string();
    for address in swarm::resolve(node, &from.name, "tasks.web")? {
        node.docker_ok(&[
            "exec",
            &from.name,
            "ping",
            "-c",
            "1",
            "-W",
            "2",
            "-s",
            &size,
            &address.to_string(),
        ])
        .with_context(|| format!("{size} bytes to {address}"))?;
    }
    Ok(())
}
