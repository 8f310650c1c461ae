//! What breaks a swarm: locked managers, a lost quorum, and a manager that goes on alone. On a cluster of its own.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use skep_tests::suite::Test;
use skep_tests::{Cluster, Node, swarm, until};

use super::PATIENCE;
use super::stage::Stage;

pub const TESTS: &[Test<Stage>] = &[(
    "a_swarm_is_locked_and_goes_on_alone",
    a_swarm_is_locked_and_goes_on_alone,
)];

const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.";

fn local_state(node: &Node) -> Result<String> {
    node.docker_ok(&["info", "--format", "{{.Swarm.LocalNodeState}}"])
}

/// `docker swarm unlock` reads the key from its input.
fn unlock(node: &Node, key: &str) -> Result<String> {
    let mut command = node.docker_command(&["swarm", "unlock"]);
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn().context("start docker swarm unlock")?;
    let mut input = child.stdin.take().context("its input")?;
    writeln!(input, "{key}").context("write the key")?;
    drop(input);
    let output = child.wait_with_output().context("wait for docker swarm unlock")?;
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn a_swarm_is_locked_and_goes_on_alone(_: &Stage) -> Result<()> {
    let cluster = Cluster::builder("lone").nodes(2).build()?;
    swarm::form(&cluster)?;
    let (one, two) = (cluster.node(1), cluster.node(2));
    one.docker_ok(&[
        "service",
        "create",
        "--quiet",
        "--detach",
        "--name",
        "web",
        "skep-test",
    ])?;
    swarm::wait_for_replicas(one, "web", "1/1", PATIENCE)?;
    is_locked_and_unlocked(one)?;
    goes_on_alone(one, two)
}

fn is_locked_and_unlocked(node: &Node) -> Result<()> {
    let none = node.docker(&["swarm", "unlock-key", "--quiet"])?.refused()?;
    ensure!(none.contains("no unlock key is set"), "{none}");
    node.docker_ok(&["swarm", "update", "--autolock=true"])?;
    let first = node.docker_ok(&["swarm", "unlock-key", "--quiet"])?;
    ensure!(first.starts_with("SWMKEY-1-"), "{first}");
    let key = node.docker_ok(&["swarm", "unlock-key", "--rotate", "--quiet"])?;
    ensure!(key != first);
    // The lock follows the spec within a moment: a start before it is open still, or opens by the first key.
    until("a locked manager", PATIENCE, || {
        node.restart_agent()?;
        ensure!(local_state(node)? == "locked");
        Ok(Some(()))
    })?;
    let error = node.docker(&["node", "ls"])?.refused()?;
    ensure!(error.contains(LOCKED), "{error}");
    let error = node.docker(&["swarm", "leave"])?.refused()?;
    ensure!(error.contains("Swarm is encrypted and locked."), "{error}");
    let error = unlock(node, &first)?;
    ensure!(
        error.contains("swarm could not be unlocked: invalid key provided"),
        "{error}"
    );
    let error = unlock(node, &key)?;
    ensure!(error.trim().is_empty(), "{error}");
    swarm::wait_for_nodes(node, 2, PATIENCE)?;
    let error = node.docker(&["swarm", "unlock"])?.refused()?;
    ensure!(error.contains("swarm is not locked"), "{error}");
    node.docker_ok(&["swarm", "update", "--autolock=false"])?;
    until("a manager that is not locked", PATIENCE, || {
        node.restart_agent()?;
        ensure!(local_state(node)? == "active");
        Ok(Some(()))
    })?;
    swarm::wait_for_nodes(node, 2, PATIENCE)?;
    Ok(())
}

fn goes_on_alone(one: &Node, two: &Node) -> Result<()> {
    two.kill()?;
    let text = "The swarm does not have a leader. It's possible that too few managers are online.";
    until("the lost quorum", PATIENCE, || {
        let error = one.docker(&["service", "ls"])?.refused()?;
        ensure!(error.contains(text), "{error}");
        Ok(Some(()))
    })?;
    let error = one
        .docker(&["service", "create", "--detach", "skep-test"])?
        .refused()?;
    ensure!(error.contains(text), "{error}");
    let error = one.docker(&["swarm", "leave"])?.refused()?;
    ensure!(error.contains("--force-new-cluster"), "{error}");
    one.docker_ok(&[
        "swarm",
        "init",
        "--force-new-cluster",
        "--advertise-addr",
        &one.address().to_string(),
    ])?;
    swarm::wait_for_replicas(one, "web", "1/1", PATIENCE)?;
    let rows = swarm::nodes(one)?;
    let managers = rows.iter().filter(|[_, _, role]| !role.is_empty()).count();
    ensure!(managers == 1, "{rows:?}");
    // The other one comes back as a worker of this swarm.
    two.revive()?;
    swarm::wait_for_nodes(one, 2, PATIENCE)?;
    let error = until("a worker", PATIENCE, || {
        Ok(Some(two.docker(&["node", "ls"])?.refused()?))
    })?;
    ensure!(error.0.contains("Worker nodes can't be used"), "{}", error.0);
    // And a manager that leaves is seen to have left.
    one.docker_ok(&["node", "promote", two.name()])?;
    until("two managers", PATIENCE, || {
        let rows = swarm::nodes(two)?;
        let managers = rows.iter().filter(|[_, _, role]| !role.is_empty()).count();
        ensure!(managers == 2, "{rows:?}");
        Ok(Some(()))
    })?;
    two.docker_ok(&["swarm", "leave", "--force"])?;
    let row = [two.name(), "Down", "Unreachable"].map(ToString::to_string);
    until("the one that left as down and unreachable", PATIENCE, || {
        let rows = swarm::nodes(one)?;
        ensure!(rows.contains(&row), "{rows:?}");
        Ok(Some(()))
    })?;
    one.docker_ok(&["node", "rm", two.name()])?;
    ensure!(swarm::nodes(one)?.len() == 1);
    Ok(())
}
