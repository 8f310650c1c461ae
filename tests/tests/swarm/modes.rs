//! Global services and jobs, and what becomes of tasks that end.

use anyhow::{Context, Result, ensure};
use skep_tests::suite::Test;
use skep_tests::{swarm, until};

use super::PATIENCE;
use super::stage::Stage;

pub const TESTS: &[Test<Stage>] = &[
    (
        "a_global_service_is_on_every_node",
        a_global_service_is_on_every_node,
    ),
    (
        "a_global_service_is_updated_on_every_node",
        a_global_service_is_updated_on_every_node,
    ),
    ("jobs_run_to_their_end", jobs_run_to_their_end),
    (
        "jobs_try_again_as_often_as_they_may",
        jobs_try_again_as_often_as_they_may,
    ),
    ("tasks_end_in_swarms_words", tasks_end_in_swarms_words),
];

/// A service by name, its options, its program, and how its task ends: desired state, state, error.
type Run<'a> = (&'a str, &'a [&'a str], &'a [&'a str], [&'a str; 3]);

/// `docker service ps`, newest first within a place: name, desired state, first word of the state, error.
fn tasks(stage: &Stage, service: &str) -> Result<Vec<[String; 4]>> {
    let format = "{{.Name}}|{{.DesiredState}}|{{.CurrentState}}|{{.Error}}";
    let text = stage.docker(&["service", "ps", "--no-trunc", "--format", format, service])?;
    let row = |line: &str| {
        let mut fields = line.split('|').map(ToString::to_string);
        let mut row = [(); 4].map(|()| fields.next().unwrap_or_default());
        row[2] = row[2].split(' ').next().unwrap_or_default().to_string();
        row[3] = row[3].trim_matches('"').to_string();
        row
    };
    Ok(text.lines().map(row).collect())
}

/// Waits until one of the service's tasks reads so: desired state, state, error.
fn wait_for_task(stage: &Stage, service: &str, wanted: [&str; 3]) -> Result<()> {
    until(&format!("a task of {service} as {wanted:?}"), PATIENCE, || {
        let tasks = tasks(stage, service)?;
        let reads = |t: &[String; 4]| t[1] == wanted[0] && t[2] == wanted[1] && t[3] == wanted[2];
        ensure!(tasks.iter().any(reads), "{tasks:?}");
        Ok(Some(()))
    })?;
    Ok(())
}

fn wait(stage: &Stage, service: &str, replicas: &str) -> Result<()> {
    swarm::wait_for_replicas(stage.node(1), service, replicas, PATIENCE)?;
    Ok(())
}

fn availability(stage: &Stage, node: usize, wanted: &str) -> Result<()> {
    let name = stage.node(node).name();
    stage.docker(&["node", "update", "--availability", wanted, name])?;
    Ok(())
}

/// Waits until the containers of the service are on these nodes, one on each.
fn wait_for_nodes(stage: &Stage, service: &str, wanted: &[usize]) -> Result<()> {
    until(&format!("{service} on nodes {wanted:?}"), PATIENCE, || {
        let found = swarm::containers(&stage.cluster, service)?;
        let mut nodes: Vec<usize> = found.iter().map(|c| c.node).collect();
        nodes.sort_unstable();
        ensure!(nodes == wanted, "{found:?}");
        Ok(Some(()))
    })?;
    Ok(())
}

fn a_global_service_is_on_every_node(stage: &Stage) -> Result<()> {
    stage.docker(&["network", "create", "--driver", "overlay", "every"])?;
    let options = ["--mode", "global", "--network", "every", "--publish", "8093:80"];
    let options = [&options[..], &["--restart-delay", "0s"]].concat();
    let containers = stage.create("all", &options, "3/3")?;
    wait_for_nodes(stage, "all", &[1, 2, 3])?;
    for container in &containers {
        let node = stage.node(container.node);
        let id = node.docker_ok(&["info", "--format", "{{.Swarm.NodeID}}"])?;
        ensure!(
            container.short_name() == format!("all.{id}"),
            "{container:?} on {id}"
        );
    }
    let inside = containers.first().context("no container")?;
    let node = stage.node(inside.node);
    let vip = swarm::virtual_ip(node, "all", "every")?;
    let all = swarm::resolve(node, &inside.id, "all")?;
    ensure!(all.iter().eq([&vip]), "{all:?} is not {vip}");
    let each = swarm::resolve(node, &inside.id, "tasks.all")?;
    ensure!(each.len() == 3, "{each:?}");
    for url in [
        "http://all/".to_string(),
        format!("http://{}:8093/", stage.node(2).address()),
    ] {
        let answered = swarm::ask(node, &inside.id, &url, 30)?;
        ensure!(answered.len() == 3, "{url}: {answered:?}");
    }
    // A paused node keeps its task, and gets no other.
    availability(stage, 3, "pause")?;
    let on_third = containers
        .iter()
        .find(|c| c.node == 3)
        .context("none on the third")?;
    stage.node(3).docker_ok(&["kill", &on_third.id])?;
    wait(stage, "all", "2/2")?;
    availability(stage, 3, "active")?;
    wait(stage, "all", "3/3")?;
    // A drained one loses it, and nobody takes its place.
    availability(stage, 2, "drain")?;
    wait(stage, "all", "2/2")?;
    wait_for_nodes(stage, "all", &[1, 3])?;
    availability(stage, 2, "active")?;
    wait(stage, "all", "3/3")?;
    stage.remove(&["all"])?;
    stage.docker(&["network", "rm", "every"])?;
    Ok(())
}

fn a_global_service_is_updated_on_every_node(stage: &Stage) -> Result<()> {
    let before = stage.create("all", &["--mode", "global"], "3/3")?;
    stage.docker(&[
        "service",
        "update",
        "--quiet",
        "--detach=false",
        "--update-monitor",
        "1s",
        "--env-add",
        "A=1",
        "all",
    ])?;
    wait(stage, "all", "3/3")?;
    let after = swarm::containers(&stage.cluster, "all")?;
    ensure!(after.iter().all(|c| !before.contains(c)), "{before:?} {after:?}");
    let state = stage.docker(&["service", "inspect", "--format", "{{.UpdateStatus.State}}", "all"])?;
    ensure!(state == "completed", "{state}");
    // Nodes that meet a new constraint keep their task; others lose it.
    let only = format!("node.hostname=={}", stage.node(2).name());
    stage.docker(&[
        "service",
        "update",
        "--quiet",
        "--detach",
        "--constraint-add",
        &only,
        "all",
    ])?;
    wait(stage, "all", "1/1")?;
    wait_for_nodes(stage, "all", &[2])?;
    let left = swarm::containers(&stage.cluster, "all")?;
    ensure!(left.iter().all(|c| after.contains(c)), "{left:?}");
    stage.docker(&[
        "service",
        "update",
        "--quiet",
        "--detach",
        "--constraint-rm",
        &only,
        "all",
    ])?;
    wait(stage, "all", "3/3")?;
    stage.remove(&["all"])
}

fn jobs_run_to_their_end(stage: &Stage) -> Result<()> {
    let create = ["service", "create", "--quiet", "--detach=false", "--name"];
    let job = [
        "work",
        "--mode",
        "replicated-job",
        "--replicas",
        "3",
        "--max-concurrent",
        "2",
    ];
    stage.docker(&[&create[..], &job, &["busybox", "true"]].concat())?;
    wait(stage, "work", "0/2 (3/3 completed)")?;
    let done = tasks(stage, "work")?;
    let completed = |t: &[String; 4]| t[1] == "Complete" && t[2] == "Complete" && t[3].is_empty();
    ensure!(done.len() == 3 && done.iter().all(completed), "{done:?}");
    // Every update runs it again.
    stage.docker(&[
        "service",
        "update",
        "--quiet",
        "--detach=false",
        "--force",
        "work",
    ])?;
    wait(stage, "work", "0/2 (3/3 completed)")?;
    let iteration = "{{.JobStatus.JobIteration.Index}} {{.Spec.Mode.ReplicatedJob.TotalCompletions}}";
    let shown = stage.docker(&["service", "inspect", "--format", iteration, "work"])?;
    ensure!(shown == "1 3", "{shown}");
    ensure!(tasks(stage, "work")?.len() == 6);
    stage.docker(&["service", "scale", "--detach", "work=4"])?;
    wait(stage, "work", "0/2 (4/4 completed)")?;
    // On every node; one that is paused runs it when it may.
    availability(stage, 2, "pause")?;
    stage.docker(&[
        "service",
        "create",
        "--quiet",
        "--detach",
        "--name",
        "each",
        "--mode",
        "global-job",
        "busybox",
        "true",
    ])?;
    wait(stage, "each", "0/0 (2/2 completed)")?;
    availability(stage, 2, "active")?;
    wait(stage, "each", "0/0 (3/3 completed)")?;
    // One that runs shows as running until it is removed.
    let long = ["long", "--mode", "replicated-job", "--replicas", "1"];
    let detached = ["service", "create", "--quiet", "--detach", "--name"];
    stage.docker(&[&detached[..], &long, &["skep-test"]].concat())?;
    wait(stage, "long", "1/1 (0/1 completed)")?;
    stage.remove(&["work", "each", "long"])
}

fn jobs_try_again_as_often_as_they_may(stage: &Stage) -> Result<()> {
    let create = [
        "service",
        "create",
        "--quiet",
        "--detach",
        "--restart-delay",
        "0s",
        "--name",
    ];
    let fail = ["busybox", "sh", "-c", "exit 3"];
    let options = ["tries", "--mode", "replicated-job", "--restart-max-attempts", "2"];
    stage.docker(&[&create[..], &options, &fail].concat())?;
    let options = ["once", "--mode", "global-job", "--restart-condition", "none"];
    stage.docker(&[&create[..], &options, &fail].concat())?;
    for (service, count) in [("tries", 3), ("once", 3)] {
        until(&format!("{count} failures of {service}"), PATIENCE, || {
            let tasks = tasks(stage, service)?;
            let failed = |t: &&[String; 4]| t[1] == "Shutdown" && t[3] == "task: non-zero exit (3)";
            ensure!(
                tasks.len() == count && tasks.iter().filter(failed).count() == count,
                "{tasks:?}"
            );
            Ok(Some(()))
        })?;
    }
    stage.remove(&["tries", "once"])
}

fn tasks_end_in_swarms_words(stage: &Stage) -> Result<()> {
    let containers = stage.create("web", &["--restart-delay", "0s"], "1/1")?;
    let web = containers.first().context("no container")?;
    let node = stage.node(web.node);
    // A container that is paused still runs.
    node.docker_ok(&["pause", &web.id])?;
    wait_for_task(stage, "web", ["Running", "Running", ""])?;
    node.docker_ok(&["unpause", &web.id])?;
    ensure!(tasks(stage, "web")?.len() == 1, "pausing made a task");
    node.docker_ok(&["kill", &web.id])?;
    wait_for_task(stage, "web", ["Shutdown", "Failed", "task: non-zero exit (137)"])?;
    wait(stage, "web", "1/1")?;
    let create = [
        "service",
        "create",
        "--quiet",
        "--detach",
        "--restart-condition",
        "on-failure",
        "--name",
    ];
    let attempts = ["--restart-max-attempts", "1", "--restart-delay", "0s"];
    let memory = ["--limit-memory", "16M"];
    let runs: [Run; 3] = [
        ("done", &[], &["true"], ["Shutdown", "Complete", ""]),
        (
            "eats",
            &memory,
            &["tail", "/dev/zero"],
            ["Shutdown", "Failed", "task: non-zero exit (137)"],
        ),
        (
            "ends",
            &[],
            &["sh", "-c", "exit 7"],
            ["Shutdown", "Failed", "task: non-zero exit (7)"],
        ),
    ];
    for (name, options, command, _) in runs {
        stage.docker(&[&create[..], &[name], &attempts, options, &["busybox"], command].concat())?;
    }
    for (name, _, _, wanted) in runs {
        wait_for_task(stage, name, wanted)?;
    }
    // Success is the end, failure is tried once more.
    let twice = |name: &str| {
        until("a second attempt", PATIENCE, || {
            Ok((tasks(stage, name)?.len() == 2).then_some(()))
        })
    };
    twice("eats")?;
    twice("ends")?;
    ensure!(tasks(stage, "done")?.len() == 1, "it was run again");
    stage.remove(&["web", "done", "eats", "ends"])
}
