//! The main job: a swarm of three managers, a service reached by name inside and through every node
//! from outside.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use skep_tests::suite::Test;
use skep_tests::{Cluster, client, swarm, until};

use super::PATIENCE;

pub const BEFORE: &[Test<Cluster>] = &[
    ("a_swarm_of_three_managers_forms", a_swarm_of_three_managers_forms),
    (
        "a_service_reaches_its_replicas_spread_over_the_nodes",
        a_service_reaches_its_replicas_spread_over_the_nodes,
    ),
    (
        "every_node_serves_the_published_port",
        every_node_serves_the_published_port,
    ),
    (
        "the_node_itself_reaches_the_published_port",
        the_node_itself_reaches_the_published_port,
    ),
    (
        "names_lead_to_the_vip_and_to_the_tasks",
        names_lead_to_the_vip_and_to_the_tasks,
    ),
    (
        "the_vip_reaches_all_tasks_from_every_node",
        the_vip_reaches_all_tasks_from_every_node,
    ),
];

pub const AFTER: &[Test<Cluster>] = &[("scale_and_remove_leave_nothing", scale_and_remove_leave_nothing)];

fn a_swarm_of_three_managers_forms(cluster: &Cluster) -> Result<()> {
    swarm::form(cluster)?;
    for node in &cluster.nodes {
        let rows = swarm::nodes(node)?;
        let names: BTreeSet<&str> = rows.iter().map(|[name, _, _]| name.as_str()).collect();
        ensure!(names == BTreeSet::from(["node1", "node2", "node3"]), "{rows:?}");
        ensure!(
            rows.iter().all(|[_, _, role]| !role.is_empty()),
            "not all are managers: {rows:?}"
        );
        ensure!(node.docker_ok(&["info", "--format", "{{.Swarm.LocalNodeState}}"])? == "active");
    }
    Ok(())
}

fn a_service_reaches_its_replicas_spread_over_the_nodes(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(1);
    node.docker_ok(&["network", "create", "-d", "overlay", "app"])?;
    // Without --detach the CLI waits until the service has converged.
    let create = [
        "service",
        "create",
        "--name",
        "web",
        "--replicas",
        "6",
        "--network",
        "app",
    ];
    let printed =
        node.docker_ok(&[&create[..], &["-p", "8080:80", "-p", "8080:80/udp", "skep-test"]].concat())?;
    ensure!(printed.contains("converged"), "{printed}");
    for node in &cluster.nodes {
        ensure!(swarm::replicas(node, "web")? == "6/6");
    }
    let tasks = swarm::containers(cluster, "web")?;
    for number in 1..=3 {
        ensure!(
            tasks.iter().filter(|task| task.node == number).count() == 2,
            "{tasks:?}"
        );
    }
    let rows = node.docker_ok(&[
        "service",
        "ps",
        "--format",
        "{{.Name}}|{{.DesiredState}}|{{.CurrentState}}",
        "web",
    ])?;
    ensure!(
        rows.lines()
            .filter(|row| row.contains("|Running|Running"))
            .count()
            == 6,
        "{rows}"
    );
    Ok(())
}

fn every_node_serves_the_published_port(cluster: &Cluster) -> Result<()> {
    let expected: BTreeSet<String> = swarm::containers(cluster, "web")?
        .iter()
        .map(|task| task.hostname().to_string())
        .collect();
    for node in &cluster.nodes {
        let address = format!("{}:8080", node.address());
        for arguments in [
            ["get", &format!("http://{address}/"), "--count", "80"],
            ["udp", &address, "--count", "80"],
        ] {
            let replies = client::replies(&cluster.client.testbox(&arguments)?)?;
            let mut hosts = BTreeSet::new();
            for reply in &replies {
                let seen = reply
                    .seen()
                    .with_context(|| format!("{} {}", arguments[0], node.name()))?;
                ensure!(
                    seen.client == cluster.client.address().to_string(),
                    "the server saw {}",
                    seen.client
                );
                hosts.insert(seen.hostname);
            }
            ensure!(
                hosts == expected,
                "{} through {}: {hosts:?}",
                arguments[0],
                node.name()
            );
        }
    }
    Ok(())
}

fn the_node_itself_reaches_the_published_port(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        for host in ["127.0.0.1".to_string(), node.address().to_string()] {
            let (url, address) = (format!("http://{host}:8080/"), format!("{host}:8080"));
            for arguments in [["get", &url, "--count", "20"], ["udp", &address, "--count", "20"]] {
                let what = || format!("{} {host}:8080 on {}", arguments[0], node.name());
                let replies = client::replies(&node.testbox(&arguments)?)?;
                client::count_by_host(&replies).with_context(what)?;
                let seen = replies[0].seen().with_context(what)?;
                ensure!(
                    seen.client == node.address().to_string(),
                    "{}: the server saw {}",
                    what(),
                    seen.client
                );
            }
        }
        // The port is taken, for Docker as for every other process.
        let taken = node.docker(&["run", "--rm", "-p", "8080:80", "skep-test"])?;
        ensure!(
            taken.stderr.contains("address already in use"),
            "{}: {}",
            node.name(),
            taken.stderr
        );
    }
    Ok(())
}

fn names_lead_to_the_vip_and_to_the_tasks(cluster: &Cluster) -> Result<()> {
    let vip = swarm::virtual_ip(cluster.node(1), "web", "app")?;
    for task in swarm::containers(cluster, "web")? {
        let node = cluster.node(task.node);
        for name in ["web", "WEB"] {
            ensure!(
                swarm::resolve(node, &task.name, name)? == BTreeSet::from([vip]),
                "{name}"
            );
        }
        let each = swarm::resolve(node, &task.name, "tasks.web")?;
        ensure!(each.len() == 6 && !each.contains(&vip), "{each:?}");
        let unknown = node.docker(&["exec", &task.name, "skep-testbox", "resolve", "no-such-service"])?;
        ensure!(!unknown.success(), "{unknown}");
        // What images really use: libc's resolver by /etc/resolv.conf.
        let wget = node.docker(&["exec", &task.name, "wget", "-qO-", "http://web/"])?;
        ensure!(wget.ok()?.contains("hostname"), "{wget}");
    }
    Ok(())
}

fn the_vip_reaches_all_tasks_from_every_node(cluster: &Cluster) -> Result<()> {
    let tasks = swarm::containers(cluster, "web")?;
    let expected: BTreeSet<String> = tasks.iter().map(|task| task.hostname().to_string()).collect();
    for number in 1..=3 {
        let node = cluster.node(number);
        let from = tasks
            .iter()
            .find(|task| task.node == number)
            .context("no task on the node")?;
        ensure!(swarm::ask(node, &from.name, "http://web/", 80)? == expected);
        // ICMP echo of the VIP and of a task elsewhere.
        let elsewhere = swarm::resolve(node, &from.name, "tasks.web")?;
        let vip = swarm::resolve(node, &from.name, "web")?;
        for address in vip.iter().chain(&elsewhere) {
            node.docker_ok(&[
                "exec",
                &from.name,
                "ping",
                "-c",
                "1",
                "-W",
                "2",
                &address.to_string(),
            ])
            .with_context(|| format!("ping {address} from {}", from.name))?;
        }
    }
    Ok(())
}

fn scale_and_remove_leave_nothing(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(1);
    node.docker_ok(&["service", "scale", "web=2"])?;
    swarm::wait_for_replicas(node, "web", "2/2", PATIENCE)?;
    until("two containers", PATIENCE, || {
        Ok((swarm::containers(cluster, "web")?.len() == 2).then_some(()))
    })?;
    let names = node.docker_ok(&["service", "ls", "--quiet"])?;
    for service in names.lines() {
        node.docker_ok(&["service", "rm", service])?;
    }
    until("removal of all containers", PATIENCE, || {
        for node in cluster.nodes.iter().filter(|node| node.is_alive()) {
            let left = node
                .engine(&["ps", "-aq", "--filter", "label=com.docker.swarm.task"])?
                .ok()?;
            ensure!(left.is_empty(), "{}: {left}", node.name());
        }
        Ok(Some(()))
    })?;
    until("removal of the network", PATIENCE, || {
        node.docker_ok(&["network", "rm", "app"]).map(Some)
    })?;
    let reply = &cluster
        .client
        .get(&format!("http://{}:8080/", node.address()), 1)?[0];
    ensure!(reply.error == "refused", "{reply:?}");
    Ok(())
}
