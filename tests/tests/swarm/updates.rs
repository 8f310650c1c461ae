//! Updates, rollbacks and health checks: how far an update goes, and that nobody who asks meanwhile is refused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use skep_tests::client::Load;
use skep_tests::session::SessionKind;
use skep_tests::suite::Test;
use skep_tests::{Reply, swarm, until};

use super::PATIENCE;
use super::stage::Stage;

pub const TESTS: &[Test<Stage>] = &[
    (
        "an_update_with_a_health_check_fails_no_request",
        an_update_with_a_health_check_fails_no_request,
    ),
    (
        "an_update_with_start_first_fails_no_request",
        an_update_with_start_first_fails_no_request,
    ),
    (
        "an_update_that_fails_pauses_or_turns_back",
        an_update_that_fails_pauses_or_turns_back,
    ),
    ("a_rollback_and_a_forced_update", a_rollback_and_a_forced_update),
    (
        "an_update_that_finds_no_node_is_stopped",
        an_update_that_finds_no_node_is_stopped,
    ),
    (
        "only_healthy_tasks_run_and_are_found",
        only_healthy_tasks_run_and_are_found,
    ),
    (
        "a_stop_waits_for_the_connections",
        a_stop_waits_for_the_connections,
    ),
];

const PORT: &str = "8095";
/// What a client asks in one round: so many requests, one each interval whatever becomes of the others.
const REQUESTS: usize = 250;
const INTERVAL: Duration = Duration::from_millis(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A server that is slow to come up, and a check that sees when it is there.
const SLOW: &[&str] = &["sh", "-c", "sleep 1; exec skep-testbox serve"];
const CHECK: &[&str] = &[
    "--health-cmd",
    "wget -q -O /dev/null http://127.0.0.1/",
    "--health-interval",
    "300ms",
    "--health-retries",
    "10",
];

fn create(stage: &Stage, name: &str, options: &[&str], program: &[&str]) -> Result<()> {
    let head = ["service", "create", "--quiet", "--detach", "--name", name];
    stage.docker(&[&head[..], options, &["skep-test"], program].concat())?;
    Ok(())
}

/// State and message of the service's last update.
fn status(stage: &Stage, service: &str) -> Result<(String, String)> {
    let format = "{{if .UpdateStatus}}{{.UpdateStatus.State}}|{{.UpdateStatus.Message}}{{else}}|{{end}}";
    let text = stage.docker(&["service", "inspect", "--format", format, service])?;
    let (state, message) = text.split_once('|').context("update status")?;
    Ok((state.to_string(), message.to_string()))
}

fn wait_for_status(stage: &Stage, service: &str, wanted: &str) -> Result<String> {
    let (message, _) = until(&format!("update of {service} {wanted}"), PATIENCE, || {
        let (state, message) = status(stage, service)?;
        ensure!(state == wanted, "{state}: {message}");
        Ok(Some(message))
    })?;
    Ok(message)
}

/// Asks in rounds of a few seconds, until one has begun after `done`.
fn ask(done: &AtomicBool, start: impl Fn() -> Result<Load>) -> Result<Vec<Reply>> {
    let mut replies = Vec::new();
    loop {
        let is_last = done.load(Ordering::SeqCst);
        replies.extend(start()?.finish()?);
        if is_last {
            return Ok(replies);
        }
    }
}

/// Through a published port. Of one node: a client that dials several may use one port of its own for two of them at the same
/// time, which a task cannot tell apart.
fn ask_port(stage: &Stage, done: &AtomicBool) -> Result<Vec<Reply>> {
    let url = format!("http://{}:{PORT}/sleep/50", stage.node(2).address());
    ask(done, || {
        let client = &stage.cluster.client;
        client.start_get(&url, REQUESTS, INTERVAL, REQUEST_TIMEOUT)
    })
}

/// Through the VIP, from inside the network.
fn ask_vip(stage: &Stage, done: &AtomicBool) -> Result<Vec<Reply>> {
    let inside = swarm::containers(&stage.cluster, "asker")?;
    let asker = inside.first().context("the asker does not run")?;
    let (count, interval) = (REQUESTS.to_string(), INTERVAL.as_millis().to_string());
    let timeout = REQUEST_TIMEOUT.as_millis().to_string();
    let rate = [
        "--count",
        &count,
        "--interval-ms",
        &interval,
        "--timeout-ms",
        &timeout,
    ];
    let arguments = [&["get", "http://web/sleep/50"], &rate[..]].concat();
    ask(done, || {
        stage.node(asker.node).start_inside(&asker.name, &arguments)
    })
}

/// Updates the service `web` while clients ask, and wants every answer.
fn update_while_asked(stage: &Stage, replicas: usize) -> Result<()> {
    let old = swarm::containers(&stage.cluster, "web")?;
    ensure!(old.len() == replicas, "{old:?}");
    let done = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let askers = [
            ("port", scope.spawn(|| ask_port(stage, &done))),
            ("VIP", scope.spawn(|| ask_vip(stage, &done))),
        ];
        let updated = stage
            .docker(&["service", "update", "--env-add", "TASK=new", "web"])
            .and_then(|_| wait_for_status(stage, "web", "completed"));
        done.store(true, Ordering::SeqCst);
        let asked = askers.map(|(who, asker)| (who, asker.join().unwrap_or_else(|_| bail!("panicked"))));
        updated.map(|_| asked)
    })?;
    let new = swarm::containers(&stage.cluster, "web")?;
    ensure!(
        new.len() == replicas && new.iter().all(|task| !old.contains(task)),
        "{old:?} {new:?}"
    );
    for (who, replies) in asked {
        let replies = replies.context(who)?;
        let failed: Vec<&Reply> = replies.iter().filter(|reply| !reply.ok).collect();
        println!("    {who}: {} requests, {} failed", replies.len(), failed.len());
        ensure!(failed.is_empty(), "{who}: {} failed: {failed:?}", failed.len());
        let (first, last) = (replies.first(), replies.last());
        ensure!(first.context("no reply")?.seen()?.task.is_empty());
        ensure!(last.context("no reply")?.seen()?.task == "new");
    }
    Ok(())
}

fn with_asker(stage: &Stage, network: &str, options: &[&str], replicas: usize) -> Result<()> {
    stage.docker(&["network", "create", "-d", "overlay", network])?;
    create(stage, "asker", &["--network", network], &[])?;
    let (publish, number) = (format!("{PORT}:80"), replicas.to_string());
    let common = [
        "--network",
        network,
        "--publish",
        &publish,
        "--replicas",
        &number,
        "--update-monitor",
        "1s",
    ];
    create(stage, "web", &[&common, options].concat(), SLOW)?;
    let wanted = format!("{replicas}/{replicas}");
    swarm::wait_for_replicas(stage.node(1), "asker", "1/1", PATIENCE)?;
    swarm::wait_for_replicas(stage.node(1), "web", &wanted, PATIENCE)?;
    update_while_asked(stage, replicas)?;
    stage.remove(&["web", "asker"])?;
    stage.docker(&["network", "rm", network])?;
    Ok(())
}

/// A replica at a time stops before the new one starts, and that takes its time until it answers.
fn an_update_with_a_health_check_fails_no_request(stage: &Stage) -> Result<()> {
    with_asker(stage, "checked", CHECK, 3)
}

/// One replica, without a check: there is always one that answers.
fn an_update_with_start_first_fails_no_request(stage: &Stage) -> Result<()> {
    with_asker(stage, "beside", &["--update-order", "start-first"], 1)
}

fn an_update_that_fails_pauses_or_turns_back(stage: &Stage) -> Result<()> {
    let options = [
        "--replicas",
        "2",
        "--restart-delay",
        "1s",
        "--update-monitor",
        "2s",
        "--rollback-monitor",
        "1s",
    ];
    create(stage, "web", &options, &[])?;
    swarm::wait_for_replicas(stage.node(1), "web", "2/2", PATIENCE)?;
    // The CLI waits for the end, and says what it was.
    let text = stage.refused(&["service", "update", "--quiet", "--args", "false", "web"])?;
    let paused = "update paused due to failure or early termination of task";
    ensure!(text.contains(paused), "{text}");
    let (state, message) = status(stage, "web")?;
    ensure!(
        state == "paused" && message.contains(paused),
        "{state}: {message}"
    );
    // The next update takes it up again, whatever is wrong with it now.
    stage.docker(&[
        "service",
        "update",
        "--quiet",
        "--args",
        "skep-testbox serve",
        "web",
    ])?;
    wait_for_status(stage, "web", "completed")?;
    // The CLI follows the way back, too, and takes its end for success.
    let text = stage.docker(&[
        "service",
        "update",
        "--update-failure-action",
        "rollback",
        "--args",
        "false",
        "web",
    ])?;
    ensure!(
        text.contains("update rolled back due to failure or early termination of task"),
        "{text}"
    );
    wait_for_status(stage, "web", "rollback_completed")?;
    swarm::wait_for_replicas(stage.node(1), "web", "2/2", PATIENCE)?;
    let shown = stage.docker(&["service", "inspect", "--format", "{{.PreviousSpec}}", "web"])?;
    ensure!(shown == "<nil>", "{shown}");
    let text = stage.refused(&["service", "rollback", "web"])?;
    ensure!(text.contains("does not have a previous spec"), "{text}");
    stage.remove(&["web"])
}

fn a_rollback_and_a_forced_update(stage: &Stage) -> Result<()> {
    let options = [
        "--replicas",
        "3",
        "--update-parallelism",
        "0",
        "--update-monitor",
        "1s",
    ];
    let more = [
        "--rollback-monitor",
        "1s",
        "--rollback-parallelism",
        "2",
        "--env",
        "TASK=one",
    ];
    create(stage, "web", &[&options[..], &more].concat(), &[])?;
    swarm::wait_for_replicas(stage.node(1), "web", "3/3", PATIENCE)?;
    let environment = "{{.Spec.TaskTemplate.ContainerSpec.Env}}";
    stage.docker(&["service", "update", "--env-add", "TASK=two", "web"])?;
    let shown = stage.docker(&["service", "inspect", "--format", environment, "web"])?;
    ensure!(shown == "[TASK=two]", "{shown}");
    stage.docker(&["service", "rollback", "web"])?;
    let message = wait_for_status(stage, "web", "rollback_completed")?;
    ensure!(message == "rollback completed", "{message}");
    let shown = stage.docker(&["service", "inspect", "--format", environment, "web"])?;
    ensure!(shown == "[TASK=one]", "{shown}");
    let old = swarm::containers(&stage.cluster, "web")?;
    stage.docker(&["service", "update", "--force", "web"])?;
    let new = swarm::containers(&stage.cluster, "web")?;
    ensure!(
        new.len() == 3 && new.iter().all(|task| !old.contains(task)),
        "{old:?} {new:?}"
    );
    // What no container can see replaces none.
    stage.docker(&[
        "service",
        "update",
        "--label-add",
        "a=b",
        "--update-delay",
        "1s",
        "web",
    ])?;
    ensure!(swarm::containers(&stage.cluster, "web")? == new);
    ensure!(status(stage, "web")?.0.is_empty());
    stage.remove(&["web"])
}

fn an_update_that_finds_no_node_is_stopped(stage: &Stage) -> Result<()> {
    let options = [
        "--label",
        "skep.update.deadline=2s",
        "--update-order",
        "start-first",
    ];
    create(stage, "web", &options, &[])?;
    swarm::wait_for_replicas(stage.node(1), "web", "1/1", PATIENCE)?;
    let old = swarm::containers(&stage.cluster, "web")?;
    let arguments = [
        "service",
        "update",
        "--quiet",
        "--constraint-add",
        "node.labels.none==there",
        "web",
    ];
    let text = stage.refused(&arguments)?;
    ensure!(text.contains("no suitable node"), "{text}");
    ensure!(status(stage, "web")?.0 == "paused");
    ensure!(
        swarm::containers(&stage.cluster, "web")? == old,
        "the old task stays"
    );
    stage.docker(&["service", "rollback", "--quiet", "web"])?;
    ensure!(
        swarm::containers(&stage.cluster, "web")? == old,
        "and is right again"
    );
    let text = stage.refused(&["service", "update", "--label-add", "skep.drain=soon", "web"])?;
    ensure!(text.contains("is no duration"), "{text}");
    stage.remove(&["web"])
}

fn only_healthy_tasks_run_and_are_found(stage: &Stage) -> Result<()> {
    stage.docker(&["network", "create", "-d", "overlay", "healthy"])?;
    create(stage, "asker", &["--network", "healthy"], &[])?;
    let check = [
        "--health-cmd",
        "test -e /tmp/well",
        "--health-interval",
        "200ms",
        "--health-retries",
        "2",
    ];
    let rest = [
        "--network",
        "healthy",
        "--health-start-period",
        "60s",
        "--restart-delay",
        "0s",
    ];
    create(stage, "web", &[&check[..], &rest].concat(), &[])?;
    swarm::wait_for_replicas(stage.node(1), "asker", "1/1", PATIENCE)?;
    let asker = swarm::containers(&stage.cluster, "asker")?.remove(0);
    let found = || swarm::resolve(stage.node(asker.node), &asker.name, "tasks.web");
    let (first, _) = until("a container of web", PATIENCE, || {
        Ok(swarm::containers(&stage.cluster, "web")?.pop())
    })?;
    let states = [
        "service",
        "ps",
        "--no-trunc",
        "--format",
        "{{.CurrentState}} {{.Error}}",
        "web",
    ];
    until("its health check's first result", PATIENCE, || {
        let format = "{{len .State.Health.Log}}";
        let checks = stage
            .node(first.node)
            .docker_ok(&["inspect", "--format", format, &first.id])?;
        Ok((checks != "0").then_some(()))
    })?;
    let shown = stage.docker(&states)?;
    ensure!(shown.starts_with("Starting"), "{shown}");
    ensure!(
        found().map_or(true, |addresses| addresses.is_empty()),
        "found before it is healthy"
    );
    stage
        .node(first.node)
        .docker_ok(&["exec", &first.id, "touch", "/tmp/well"])?;
    swarm::wait_for_replicas(stage.node(1), "web", "1/1", PATIENCE)?;
    until(
        "its address",
        PATIENCE,
        || Ok((found()?.len() == 1).then_some(())),
    )?;
    // What falls ill fails, and another takes its place, which is not well by itself.
    stage
        .node(first.node)
        .docker_ok(&["exec", &first.id, "rm", "/tmp/well"])?;
    until("its failure", PATIENCE, || {
        let shown = stage.docker(&states)?;
        let failed = shown.lines().find(|line| line.starts_with("Failed"));
        Ok(failed
            .filter(|line| line.contains("unhealthy container"))
            .map(|_| ()))
    })?;
    until("no address", PATIENCE, || {
        Ok(found()
            .map_or(true, |addresses| addresses.is_empty())
            .then_some(()))
    })?;
    // Without a check it runs at once.
    stage.docker(&["service", "update", "--detach", "--no-healthcheck", "web"])?;
    swarm::wait_for_replicas(stage.node(1), "web", "1/1", PATIENCE)?;
    stage.remove(&["web", "asker"])?;
    stage.docker(&["network", "rm", "healthy"])?;
    Ok(())
}

fn a_stop_waits_for_the_connections(stage: &Stage) -> Result<()> {
    let publish = format!("{PORT}:80");
    let options = [
        "--publish",
        &publish,
        "--label",
        "skep.drain=60s",
        "--update-order",
        "start-first",
    ];
    create(stage, "web", &options, &[])?;
    swarm::wait_for_replicas(stage.node(1), "web", "1/1", PATIENCE)?;
    let old = swarm::containers(&stage.cluster, "web")?;
    // Through a node that does not run the task: its connection is known there no more than on a router.
    let entry = stage
        .cluster
        .nodes
        .iter()
        .find(|node| node.number() != old[0].node);
    let target = format!("{}:{PORT}", entry.context("one node")?.address());
    let session =
        stage
            .cluster
            .client
            .start_sessions(&target, SessionKind::Echo, 1, PATIENCE, INTERVAL * 10)?;
    stage.docker(&["service", "update", "--detach", "--env-add", "TASK=new", "web"])?;
    until("the new task", PATIENCE, || {
        let now = swarm::containers(&stage.cluster, "web")?;
        Ok(now.iter().any(|task| !old.contains(task)).then_some(()))
    })?;
    wait_for_status(stage, "web", "completed")?;
    let beside = swarm::containers(&stage.cluster, "web")?;
    ensure!(
        beside.contains(&old[0]),
        "the old task did not wait for its client"
    );
    let sessions = session.stop()?;
    ensure!(sessions.iter().all(|session| session.ok), "{sessions:?}");
    until("the end of the old task", PATIENCE, || {
        let left = swarm::containers(&stage.cluster, "web")?;
        Ok((!left.contains(&old[0])).then_some(()))
    })?;
    stage.remove(&["web"])
}
