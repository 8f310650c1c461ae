//! Where tasks go: constraints, resources, what is filled up, spread anew or kept with its data, and what `service ps` says
//! of tasks that find no node.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skep_tests::suite::Test;
use skep_tests::{swarm, until};

use super::PATIENCE;
use super::stage::Stage;

pub const TESTS: &[Test<Stage>] = &[
    ("constraints_and_their_texts", constraints_and_their_texts),
    (
        "a_node_is_described_as_swarm_does",
        a_node_is_described_as_swarm_does,
    ),
    ("generic_resources_and_limits", generic_resources_and_limits),
    (
        "host_ports_and_reservations_run_out",
        host_ports_and_reservations_run_out,
    ),
    (
        "tasks_leave_a_node_that_no_longer_fits",
        tasks_leave_a_node_that_no_longer_fits,
    ),
    ("binpack_fills_a_node_up", binpack_fills_a_node_up),
    ("a_service_is_spread_anew", a_service_is_spread_anew),
    (
        "a_task_stays_with_its_data_or_says_so",
        a_task_stays_with_its_data_or_says_so,
    ),
];

/// Waits until a task of the service shows the error, as `docker service ps` has it.
fn wait_for_error(stage: &Stage, service: &str, wanted: &str) -> Result<()> {
    until(&format!("{service}: {wanted}"), PATIENCE, || {
        let errors = stage.docker(&["service", "ps", "--no-trunc", "--format", "{{.Error}}", service])?;
        ensure!(errors.lines().any(|e| e.trim_matches('"') == wanted), "{errors}");
        Ok(Some(()))
    })?;
    Ok(())
}

fn create(stage: &Stage, name: &str, options: &[&str]) -> Result<()> {
    let head = ["service", "create", "--quiet", "--detach", "--name", name];
    stage.docker(&[&head[..], options, &["skep-test"]].concat())?;
    Ok(())
}

fn on_node(stage: &Stage, number: usize) -> String {
    format!("node.hostname=={}", stage.node(number).name())
}

/// Numbers of the nodes that run the service's tasks, one for each task.
fn nodes_of(stage: &Stage, service: &str) -> Result<Vec<usize>> {
    let containers = swarm::containers(&stage.cluster, service)?;
    let mut nodes: Vec<usize> = containers.iter().map(|c| c.node).collect();
    nodes.sort_unstable();
    Ok(nodes)
}

fn constraints_and_their_texts(stage: &Stage) -> Result<()> {
    for (bad, text) in [
        (
            "node.labels.zone=a",
            "constraint expected one operator from ==, !=",
        ),
        ("no de==a", "key 'no de' is invalid"),
        ("node.id==", "value '' is invalid"),
    ] {
        let error = stage.refused(&[
            "service",
            "create",
            "--name",
            "bad",
            "--constraint",
            bad,
            "skep-test",
        ])?;
        ensure!(error.contains(text), "{bad}: {error}");
    }
    create(stage, "engine", &["--constraint", "engine.labels.disk==ssd"])?;
    create(
        stage,
        "ip",
        &["--constraint", &format!("node.ip=={}", stage.node(2).address())],
    )?;
    create(stage, "none", &["--constraint", "node.labels.zone==nowhere"])?;
    swarm::wait_for_replicas(stage.node(1), "engine", "1/1", PATIENCE)?;
    swarm::wait_for_replicas(stage.node(1), "ip", "1/1", PATIENCE)?;
    ensure!(nodes_of(stage, "ip")? == [2]);
    wait_for_error(
        stage,
        "none",
        "no suitable node (scheduling constraints not satisfied on 3 nodes)",
    )?;
    stage.remove(&["engine", "ip", "none"])
}

fn a_node_is_described_as_swarm_does(stage: &Stage) -> Result<()> {
    let text = stage.docker(&["node", "inspect", stage.node(2).name()])?;
    let nodes: Vec<Value> = serde_json::from_str(&text)?;
    let description = &nodes.first().context("a node")?["Description"];
    let resources = &description["Resources"]["GenericResources"];
    let kinds: Vec<&str> = resources
        .as_array()
        .context("generic resources")?
        .iter()
        .filter_map(|r| {
            r["NamedResourceSpec"]["Value"]
                .as_str()
                .or(r["DiscreteResourceSpec"]["Kind"].as_str())
        })
        .collect();
    let kinds: BTreeSet<&str> = kinds.into_iter().collect();
    ensure!(
        kinds == BTreeSet::from(["SSD", "UUID-1", "UUID-2"]),
        "{resources}"
    );
    ensure!(description["Engine"]["Labels"]["disk"] == "ssd", "{description}");
    let plugins = description["Engine"]["Plugins"].as_array().context("plugins")?;
    let overlay = |p: &Value| p["Type"] == "Network" && p["Name"] == "overlay";
    ensure!(plugins.iter().any(overlay), "{plugins:?}");
    let error = stage.refused(&["node", "rm", "--force", stage.node(2).name()])?;
    ensure!(
        error.contains("is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"),
        "{error}"
    );
    Ok(())
}

fn generic_resources_and_limits(stage: &Stage) -> Result<()> {
    let node = on_node(stage, 2);
    let options = [
        "--generic-resource",
        "GPU=2",
        "--generic-resource",
        "SSD=1",
        "--constraint",
        &node,
        "--limit-memory",
        "128M",
        "--limit-cpu",
        "0.5",
        "--limit-pids",
        "50",
        "--reserve-memory",
        "64M",
    ];
    let containers = stage.create("gpu", &options, "1/1")?;
    let container = containers.first().context("a task")?;
    let env = stage.node(2).engine(&["exec", &container.id, "env"])?.ok()?;
    for wanted in ["DOCKER_RESOURCE_GPU=UUID-1,UUID-2", "DOCKER_RESOURCE_SSD=1"] {
        ensure!(env.lines().any(|l| l == wanted), "{wanted}: {env}");
    }
    let format = "{{.HostConfig.Memory}} {{.HostConfig.MemoryReservation}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}";
    let limits = stage
        .node(2)
        .engine(&["inspect", "--format", format, &container.id])?
        .ok()?;
    ensure!(limits.trim() == "134217728 67108864 500000000 50", "{limits}");
    let task = stage.docker(&["service", "ps", "--quiet", "--no-trunc", "gpu"])?;
    let given = stage.docker(&["inspect", "--format", "{{json .GenericResources}}", task.trim()])?;
    ensure!(given.contains("UUID-2"), "{given}");
    create(
        stage,
        "late",
        &["--generic-resource", "GPU=1", "--constraint", &node],
    )?;
    wait_for_error(
        stage,
        "late",
        "no suitable node (scheduling constraints not satisfied on 2 nodes; insufficient resources on 1 node)",
    )?;
    // What the first gives back, the second is given.
    stage.remove(&["gpu"])?;
    swarm::wait_for_replicas(stage.node(1), "late", "1/1", PATIENCE)?;
    stage.remove(&["late"])
}

fn host_ports_and_reservations_run_out(stage: &Stage) -> Result<()> {
    let port = "mode=host,published=8097,target=80";
    create(stage, "ports", &["--replicas", "4", "--publish", port])?;
    create(stage, "huge", &["--reserve-memory", "4T"])?;
    create(
        stage,
        "most",
        &["--replicas", "4", "--replicas-max-per-node", "1"],
    )?;
    swarm::wait_for_replicas(stage.node(1), "ports", "3/4", PATIENCE)?;
    wait_for_error(
        stage,
        "ports",
        "no suitable node (host-mode port already in use on 3 nodes)",
    )?;
    wait_for_error(
        stage,
        "huge",
        "no suitable node (insufficient resources on 3 nodes)",
    )?;
    wait_for_error(
        stage,
        "most",
        "no suitable node (max replicas per node limit exceed)",
    )?;
    stage.remove(&["ports", "huge", "most"])
}

fn tasks_leave_a_node_that_no_longer_fits(stage: &Stage) -> Result<()> {
    let label = |number: usize, change: &str, label: &str| {
        stage.docker(&["node", "update", change, label, stage.node(number).name()])
    };
    label(2, "--label-add", "zone=a")?;
    let options = ["--constraint", "node.labels.zone==a", "--restart-delay", "0s"];
    stage.create("zoned", &options, "1/1")?;
    ensure!(nodes_of(stage, "zoned")? == [2]);
    label(3, "--label-add", "zone=a")?;
    label(2, "--label-rm", "zone")?;
    wait_for_error(stage, "zoned", "assigned node no longer meets constraints")?;
    until("the task on the other node", PATIENCE, || {
        let nodes = nodes_of(stage, "zoned")?;
        ensure!(nodes == [3], "{nodes:?}");
        Ok(Some(()))
    })?;
    let states = stage.docker(&["service", "ps", "--format", "{{.CurrentState}}", "zoned"])?;
    ensure!(states.contains("Rejected"), "{states}");
    label(3, "--label-rm", "zone")?;
    stage.remove(&["zoned"])
}

fn binpack_fills_a_node_up(stage: &Stage) -> Result<()> {
    let label = "skep.placement.strategy=binpack";
    let options = ["--replicas", "3", "--reserve-memory", "16M", "--label", label];
    stage.create("packed", &options, "3/3")?;
    let nodes: BTreeSet<usize> = nodes_of(stage, "packed")?.into_iter().collect();
    ensure!(nodes.len() == 1, "{nodes:?}");
    let error = stage.refused(&[
        "service",
        "update",
        "--label-add",
        "skep.placement.strategy=tight",
        "packed",
    ])?;
    ensure!(error.contains("is neither spread nor binpack"), "{error}");
    stage.remove(&["packed"])
}

/// Drain stands for a node that is yet to join.
fn a_service_is_spread_anew(stage: &Stage) -> Result<()> {
    let availability =
        |word: &str| stage.docker(&["node", "update", "--availability", word, stage.node(3).name()]);
    availability("drain")?;
    stage.create(
        "even",
        &["--replicas", "6", "--label", "skep.rebalance=true"],
        "6/6",
    )?;
    ensure!(nodes_of(stage, "even")? == [1, 1, 1, 2, 2, 2]);
    availability("active")?;
    until("two tasks on each node", PATIENCE, || {
        let replicas = swarm::replicas(stage.node(1), "even")?;
        let running = replicas.split('/').next().and_then(|n| n.parse::<u32>().ok());
        ensure!(running.is_some_and(|n| n >= 6), "fewer than wanted: {replicas}");
        let nodes = nodes_of(stage, "even")?;
        Ok((nodes == [1, 1, 2, 2, 3, 3]).then_some(()))
    })?;
    stage.remove(&["even"])
}

fn a_task_stays_with_its_data_or_says_so(stage: &Stage) -> Result<()> {
    let availability =
        |word: &str| stage.docker(&["node", "update", "--availability", word, stage.node(2).name()]);
    let node = on_node(stage, 2);
    let mount = |name: &str| format!("type=volume,source={name},target=/data");
    let (kept, left) = (mount("placement-kept"), mount("placement-left"));
    let options = ["--constraint", &node, "--mount"];
    let affinity = ["--label", "skep.volume.affinity=true"];
    stage.create("kept", &[&options[..], &[&kept], &affinity].concat(), "1/1")?;
    stage.create("left", &[&options[..], &[&left]].concat(), "1/1")?;
    for service in ["kept", "left"] {
        stage.docker(&[
            "service",
            "update",
            "--detach",
            "--quiet",
            "--constraint-rm",
            &node,
            service,
        ])?;
    }
    availability("drain")?;
    wait_for_error(
        stage,
        "kept",
        "no suitable node (no data of the task's local volumes on 2 nodes; 1 node not available for new tasks)",
    )?;
    swarm::wait_for_replicas(stage.node(1), "left", "1/1", PATIENCE)?;
    let running = [
        "service",
        "ps",
        "--quiet",
        "--no-trunc",
        "--filter",
        "desired-state=running",
        "left",
    ];
    let task = stage.docker(&running)?;
    let message = stage.docker(&["inspect", "--format", "{{.Status.Message}}", task.trim()])?;
    let wanted = format!("the data of its local volumes is on {}", stage.node(2).name());
    ensure!(message.contains(&wanted), "{message}");
    availability("active")?;
    swarm::wait_for_replicas(stage.node(1), "kept", "1/1", PATIENCE)?;
    ensure!(nodes_of(stage, "kept")? == [2]);
    stage.remove(&["kept", "left"])?;
    for (number, volume) in [(2, "placement-kept"), (2, "placement-left")] {
        stage
            .node(number)
            .engine(&["volume", "rm", "--force", volume])?
            .ok()?;
    }
    for number in [1, 3] {
        stage
            .node(number)
            .engine(&["volume", "rm", "--force", "placement-left"])?
            .ok()?;
    }
    Ok(())
}
