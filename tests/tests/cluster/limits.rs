//! Limits and bad input: each gives a clear error in the CLI or in `docker service ps`, and changes
//! nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep_tests::runs::Process;
use skep_tests::suite::Test;
use skep_tests::{Cluster, Node, swarm, until};

use super::PATIENCE;

pub const TESTS: &[Test<Cluster>] = &[
    ("a_name_in_use_is_refused", a_name_in_use_is_refused),
    (
        "a_port_of_another_service_is_refused",
        a_port_of_another_service_is_refused,
    ),
    (
        "a_port_that_a_process_holds_is_said_and_not_taken",
        a_port_that_a_process_holds_is_said_and_not_taken,
    ),
    (
        "an_unknown_image_is_the_tasks_error",
        an_unknown_image_is_the_tasks_error,
    ),
    (
        "a_constraint_nobody_meets_leaves_the_task_pending",
        a_constraint_nobody_meets_leaves_the_task_pending,
    ),
    (
        "an_overlapping_subnet_is_refused",
        an_overlapping_subnet_is_refused,
    ),
    (
        "joins_that_cannot_be_are_refused",
        joins_that_cannot_be_are_refused,
    ),
    (
        "what_is_not_built_yet_is_named_and_changes_nothing",
        what_is_not_built_yet_is_named_and_changes_nothing,
    ),
    (
        "the_agent_refuses_to_start_where_it_could_not_work",
        the_agent_refuses_to_start_where_it_could_not_work,
    ),
];

/// The command must fail, say one of `words` and leave the lists of objects as they were.
fn refused(node: &Node, arguments: &[&str], words: &[&str]) -> Result<()> {
    let before = objects(node)?;
    let error = node.docker(arguments)?.refused()?;
    ensure!(
        words.iter().any(|word| error.contains(word)),
        "{arguments:?} said: {error}"
    );
    let after = objects(node)?;
    ensure!(
        before == after,
        "{arguments:?} changed something:\n{before}\n{after}"
    );
    Ok(())
}

fn objects(node: &Node) -> Result<String> {
    let mut text = String::new();
    for kind in ["service", "network", "node"] {
        text += &node.docker_ok(&[kind, "ls", "-q"])?;
        text += "\n";
    }
    Ok(text)
}

/// Waits until the tasks of `service` show all of `words` in state or error.
fn wait_for_task_error(node: &Node, service: &str, words: &[&str]) -> Result<()> {
    until(&format!("{service}: {words:?}"), PATIENCE, || {
        let format = "{{.CurrentState}} {{.Error}}";
        let text = node.docker_ok(&["service", "ps", "--no-trunc", "--format", format, service])?;
        if words.iter().all(|word| text.contains(word)) {
            Ok(Some(()))
        } else {
            bail!("{text}")
        }
    })?;
    Ok(())
}

fn remove_service(node: &Node, service: &str) -> Result<()> {
    node.docker_ok(&["service", "rm", service]).map(|_| ())
}

fn a_name_in_use_is_refused(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(2);
    let words = ["name conflicts with an existing object"];
    refused(
        node,
        &["service", "create", "-d", "--name", "web", "skep-test"],
        &words,
    )?;
    refused(
        node,
        &["network", "create", "-d", "overlay", "app"],
        &["already exists"],
    )
}

fn a_port_of_another_service_is_refused(cluster: &Cluster) -> Result<()> {
    let arguments = [
        "service",
        "create",
        "-d",
        "--name",
        "second",
        "-p",
        "8080:80",
        "skep-test",
    ];
    refused(
        cluster.node(3),
        &arguments,
        &["port '8080' is already in use by service 'web'"],
    )
}

fn a_port_that_a_process_holds_is_said_and_not_taken(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(1);
    let testbox = skep_tests::testbox::build()?;
    let mut command = node.space()?.command(&testbox);
    let mut holder = command
        .args(["serve", "--port", "8085"])
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let result = held_port(cluster, node);
    let program = Process::child_of(holder.id())?;
    kill(Pid::from_raw(program.pid), Signal::SIGKILL)?;
    holder.wait()?;
    result
}

fn held_port(cluster: &Cluster, node: &Node) -> Result<()> {
    let url = format!("http://{}:8085/", node.address());
    until("the holder answers", PATIENCE, || {
        Ok(cluster.client.get(&url, 1)?[0].ok.then_some(()))
    })?;
    node.docker_ok(&[
        "service",
        "create",
        "-d",
        "--name",
        "late",
        "--replicas",
        "3",
        "-p",
        "8085:80",
        "skep-test",
    ])?;
    swarm::wait_for_replicas(node, "late", "3/3", PATIENCE)
        .or_else(|_| wait_for_task_error(node, "late", &["8085"]).map(|()| Duration::ZERO))?;
    // The process keeps its port, the other nodes serve the service.
    ensure!(
        cluster.client.get(&url, 1)?[0].seen()?.hostname == node.name(),
        "the service took the port silently"
    );
    let other = format!("http://{}:8085/", cluster.node(2).address());
    until("the other nodes serve", PATIENCE, || {
        Ok(cluster.client.get(&other, 1)?[0].ok.then_some(()))
    })?;
    let said = until("the held port is said", PATIENCE, || {
        let mut text = node.docker_ok(&["service", "ps", "--no-trunc", "--format", "{{.Error}}", "late"])?;
        text += &node.docker_ok(&["node", "inspect", "--format", "{{.Status.Message}}", "node1"])?;
        if text.contains("8085") {
            Ok(Some(()))
        } else {
            bail!("{text}")
        }
    });
    remove_service(node, "late")?;
    said.map(|_| ())
}

fn an_unknown_image_is_the_tasks_error(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(1);
    node.docker_ok(&["service", "create", "-d", "--name", "ghost", "no-such-image:1"])?;
    wait_for_task_error(node, "ghost", &["Rejected", "No such image: no-such-image:1"])?;
    remove_service(node, "ghost")
}

fn a_constraint_nobody_meets_leaves_the_task_pending(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(1);
    let constraint = "node.labels.disk==none-has-it";
    node.docker_ok(&[
        "service",
        "create",
        "-d",
        "--name",
        "picky",
        "--constraint",
        constraint,
        "skep-test",
    ])?;
    wait_for_task_error(
        node,
        "picky",
        &[
            "Pending",
            "no suitable node (scheduling constraints not satisfied on 3 nodes)",
        ],
    )?;
    remove_service(node, "picky")?;
    refused(
        node,
        &[
            "service",
            "create",
            "-d",
            "--constraint",
            "node.role",
            "skep-test",
        ],
        &["onstraint"],
    )
}

fn an_overlapping_subnet_is_refused(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(1);
    let subnet = node.docker_ok(&[
        "network",
        "inspect",
        "--format",
        "{{(index .IPAM.Config 0).Subnet}}",
        "app",
    ])?;
    refused(
        node,
        &["network", "create", "-d", "overlay", "--subnet", &subnet, "twice"],
        &["verlap"],
    )?;
    refused(
        node,
        &[
            "network",
            "create",
            "-d",
            "overlay",
            "--subnet",
            "10.300.0.0/24",
            "wrong",
        ],
        &["10.300.0.0/24"],
    )
}

/// A fourth node, which is no member.
fn joins_that_cannot_be_are_refused(cluster: &Cluster) -> Result<()> {
    let stranger = Cluster::builder("strange").build()?;
    let node = stranger.node(1);
    let join = |token: &str, address: &str| {
        node.docker(&["swarm", "join", "--token", token, address])?
            .refused()
    };
    let error = join("SWMTKN-1-garbage", "127.0.0.1:2377")?;
    ensure!(error.contains("invalid join token"), "{error}");
    // Well formed, but nobody listens there.
    let token = cluster
        .node(1)
        .docker_ok(&["swarm", "join-token", "-q", "worker"])?;
    let begin = Instant::now();
    let error = join(&token, "127.0.0.1:2999")?;
    ensure!(
        begin.elapsed() < Duration::from_secs(30),
        "said only after {:?}",
        begin.elapsed()
    );
    ensure!(
        error.contains("127.0.0.1:2999") || error.contains("refused"),
        "{error}"
    );
    let state = node.docker_ok(&["info", "--format", "{{.Swarm.LocalNodeState}}"])?;
    ensure!(state == "inactive", "{state}");
    let error = node.docker(&["service", "ls"])?.refused()?;
    ensure!(error.contains("This node is not a swarm manager"), "{error}");
    // A token of another swarm: the digest of the CA does not fit, and the secret is not sent.
    node.docker_ok(&["swarm", "init", "--advertise-addr", "127.0.0.1"])?;
    let error = node
        .docker(&["swarm", "join", "--token", &token, "127.0.0.1:2377"])?
        .refused()?;
    ensure!(error.contains("already part of a swarm"), "{error}");
    Ok(())
}

fn what_is_not_built_yet_is_named_and_changes_nothing(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(2);
    refused(node, &["secret", "create", "s", "/etc/hostname"], &["secret"])?;
    refused(node, &["config", "create", "c", "/etc/hostname"], &["config"])
}

/// Started a second time beside the one that runs, in an environment where it cannot work.
fn the_agent_refuses_to_start_where_it_could_not_work(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(1);
    let binary = skep_tests::cluster::agent_binary()?.display().to_string();
    let agent = [
        &binary,
        "agent",
        "--state-dir",
        "/tmp/skep-second",
        "--socket",
        "/run/second.sock",
    ];
    let without_bpf = [
        &[
            "setpriv",
            "--bounding-set",
            "-bpf,-sys_admin",
            "--inh-caps",
            "-bpf,-sys_admin",
        ][..],
        &agent,
    ]
    .concat();
    let error = node.exec(&without_bpf)?.refused()?;
    ensure!(error.contains("CAP_BPF"), "{error}");
    Ok(())
}
