//! Nodes that change their role, the swarm's own settings, tokens, a new root, and what leaves the swarm whole.

use anyhow::{Result, ensure};
use skep_tests::suite::Test;
use skep_tests::{swarm, until};

use super::PATIENCE;
use super::stage::Stage;

pub const TESTS: &[Test<Stage>] = &[
    (
        "a_manager_is_demoted_and_promoted_while_its_task_runs",
        a_manager_is_demoted_and_promoted_while_its_task_runs,
    ),
    (
        "settings_of_the_swarm_are_updated",
        settings_of_the_swarm_are_updated,
    ),
    ("join_tokens_rotate", join_tokens_rotate),
    ("a_new_root_reaches_every_node", a_new_root_reaches_every_node),
];

fn roles(stage: &Stage, from: usize) -> Result<Vec<[String; 3]>> {
    swarm::nodes(stage.node(from))
}

/// Waits until the first node shows the third as that, such as `Reachable` or nothing.
fn third_is(stage: &Stage, wanted: &str) -> Result<()> {
    let name = stage.node(3).name();
    until(&format!("{name} as {wanted:?}"), PATIENCE, || {
        let rows = roles(stage, 1)?;
        let found = rows
            .iter()
            .any(|[host, status, role]| host == name && status == "Ready" && role == wanted);
        ensure!(found, "{rows:?}");
        Ok(Some(()))
    })?;
    Ok(())
}

fn a_manager_is_demoted_and_promoted_while_its_task_runs(stage: &Stage) -> Result<()> {
    let name = stage.node(3).name();
    let constraint = format!("node.hostname=={name}");
    let before = stage.create("stays", &["--constraint", &constraint], "1/1")?;
    // Its Engine's own word, for the container must not even have been started anew.
    let started = || {
        let format = "{{.Id}} {{.State.StartedAt}}";
        stage
            .node(3)
            .engine(&["inspect", "--format", format, &before[0].id])?
            .ok()
    };
    let first = started()?;
    stage.docker(&["node", "demote", name])?;
    third_is(stage, "")?;
    until("the third node's API as a worker's", PATIENCE, || {
        let error = stage.node(3).docker(&["node", "ls"])?.refused()?;
        ensure!(
            error.contains("Worker nodes can't be used to view or modify cluster state."),
            "{error}"
        );
        Ok(Some(()))
    })?;
    ensure!(started()? == first, "the task was touched");
    let error = stage.refused(&["node", "rm", name])?;
    ensure!(error.contains("is not down and can't be removed"), "{error}");
    stage.docker(&["node", "promote", name])?;
    third_is(stage, "Reachable")?;
    until("the third node's API as a manager's", PATIENCE, || {
        ensure!(roles(stage, 3)?.len() == 3);
        Ok(Some(()))
    })?;
    ensure!(started()? == first, "the task was touched");
    let error = stage.refused(&["node", "rm", "--force", name])?;
    ensure!(
        error.contains("It must be demoted to worker before removal"),
        "{error}"
    );
    stage.remove(&["stays"])
}

fn settings_of_the_swarm_are_updated(stage: &Stage) -> Result<()> {
    let shown = |node: usize| {
        let arguments = [
            "system",
            "info",
            "--format",
            "{{.Swarm.Cluster.Spec.Raft.SnapshotInterval}}",
        ];
        stage.node(node).docker_ok(&arguments)
    };
    stage.docker(&[
        "swarm",
        "update",
        "--task-history-limit",
        "3",
        "--dispatcher-heartbeat",
        "2s",
        "--snapshot-interval",
        "20000",
        "--cert-expiry",
        "48h",
    ])?;
    ensure!(shown(1)? == "20000", "{}", shown(1)?);
    // Nodes beat by the new period at once, or they would be called down.
    swarm::wait_for_nodes(stage.node(2), 3, PATIENCE)?;
    let error = stage.refused(&["swarm", "update", "--cert-expiry", "59m"])?;
    ensure!(
        error.contains("minimum certificate expiry time is: 1h0m0s"),
        "{error}"
    );
    let external = "protocol=cfssl,url=https://ca.example/sign";
    let error = stage.refused(&["swarm", "update", "--external-ca", external])?;
    ensure!(error.contains("external certificate authority"), "{error}");
    stage.docker(&[
        "swarm",
        "update",
        "--task-history-limit",
        "5",
        "--dispatcher-heartbeat",
        "5s",
        "--snapshot-interval",
        "10000",
        "--cert-expiry",
        "2160h",
    ])?;
    Ok(())
}

fn join_tokens_rotate(stage: &Stage) -> Result<()> {
    let token = |role: &str| stage.docker(&["swarm", "join-token", "--quiet", role]);
    let (worker, manager) = (token("worker")?, token("manager")?);
    let rotated = stage.docker(&["swarm", "join-token", "--rotate", "--quiet", "worker"])?;
    ensure!(rotated != worker && rotated == token("worker")?);
    ensure!(token("manager")? == manager);
    let common = |token: &str| token.rsplit_once('-').map(|(front, _)| front.to_string());
    ensure!(common(&rotated) == common(&worker), "the root is the same");
    Ok(())
}

fn a_new_root_reaches_every_node(stage: &Stage) -> Result<()> {
    let root = || stage.docker(&["swarm", "ca"]);
    let old = root()?;
    // Returns when every node shows the new root (the CLI's two bars are full).
    stage.docker(&["swarm", "ca", "--rotate", "--quiet"])?;
    let new = root()?;
    ensure!(new != old && new.starts_with("-----BEGIN CERTIFICATE-----"));
    let tls = stage.docker(&["node", "ls", "--format", "{{.TLSStatus}}"])?;
    ensure!(tls.lines().all(|status| status == "Ready"), "{tls}");
    for number in 1..=3 {
        ensure!(roles(stage, number)?.len() == 3);
    }
    stage.create("after", &["--replicas", "3"], "3/3")?;
    stage.remove(&["after"])
}
