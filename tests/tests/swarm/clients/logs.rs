//! `docker service logs`: of all nodes, from any of them, of tasks that have ended, and of nodes that are away.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use skep_tests::suite::Test;
use skep_tests::{Node, http, swarm, until};

use crate::PATIENCE;
use crate::stage::Stage;

pub const TESTS: &[Test<Stage>] = &[
    ("logs_come_from_every_node_to_every_manager", logs_of_all_nodes),
    ("logs_are_followed_into_new_tasks", logs_are_followed),
    ("logs_of_a_terminal_are_raw", logs_of_a_terminal),
    ("logs_say_which_node_is_away", logs_say_which_node_is_away),
];

/// Creates a service of shells; not with the stage's own, which are test servers.
fn create(stage: &Stage, name: &str, options: &[&str], script: &str, wanted: &str) -> Result<()> {
    let start = ["service", "create", "--quiet", "--detach", "--name", name];
    let image = ["busybox", "sh", "-c", script];
    stage.docker(&[&start[..], options, &image].concat())?;
    swarm::wait_for_replicas(stage.node(1), name, wanted, PATIENCE)?;
    Ok(())
}

fn logs(node: &Node, arguments: &[&str]) -> Result<(Vec<String>, Vec<String>)> {
    let output = node.docker(&[&["service", "logs"], arguments].concat())?;
    output.ok()?;
    let lines = |text: &str| text.lines().map(str::to_string).collect();
    Ok((lines(&output.stdout), lines(&output.stderr)))
}

fn logs_of_all_nodes(stage: &Stage) -> Result<()> {
    let script = "echo first; sleep 0.3; echo out; sleep 0.3; echo wrong >&2; exec sleep 1000";
    let options = ["--replicas", "3", "--replicas-max-per-node", "1"];
    create(stage, "talker", &options, script, "3/3 (max 1 per node)")?;
    for node in &stage.cluster.nodes {
        until("all lines", PATIENCE, || {
            let (out, err) = logs(node, &["talker"])?;
            ensure!(out.len() == 6 && err.len() == 3, "{out:?} {err:?}");
            for other in &stage.cluster.nodes {
                let from = format!("@{} ", other.name());
                ensure!(
                    out.iter().filter(|line| line.contains(&from)).count() == 2,
                    "{out:?}"
                );
            }
            ensure!(err.iter().all(|line| line.ends_with("| wrong")), "{err:?}");
            Ok(Some(()))
        })?;
    }
    let node = stage.node(2);
    let (out, _) = logs(node, &["--tail", "2", "--raw", "talker"])?;
    ensure!(
        !out.iter().any(|line| line == "first") && out.len() == 3,
        "{out:?}"
    );
    let (out, _) = logs(node, &["--timestamps", "--raw", "talker"])?;
    ensure!(
        out.iter()
            .all(|line| line.split(' ').next().is_some_and(|time| time.ends_with('Z'))),
        "{out:?}"
    );
    let (out, err) = logs(node, &["--since", "2999-01-01T00:00:00", "talker"])?;
    ensure!(out.is_empty() && err.is_empty(), "{out:?} {err:?}");
    let tasks = stage.docker(&["service", "ps", "--quiet", "--no-trunc", "talker"])?;
    for task in tasks.lines() {
        let (out, _) = logs(node, &["--raw", task])?;
        ensure!(out == ["first", "out"], "{task}: {out:?}");
    }
    only_one_stream(node)?;
    stage.remove(&["talker"])
}

fn only_one_stream(node: &Node) -> Result<()> {
    let answer = http::request(node, "GET", "/v1.41/services/talker/logs?stderr=1&tail=all", None)?;
    ensure!(
        answer.header("Content-Type") == "application/vnd.docker.raw-stream",
        "{answer:?}"
    );
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(
        text.matches("wrong").count() == 3 && !text.contains("first"),
        "{text:?}"
    );
    for (query, message) in [
        ("", "must specify at least one of 'stdout' or 'stderr'"),
        ("stdout=1&tail=-1", "negative tail values not supported"),
        (
            "stdout=1&tail=x",
            "tail value must be a positive integer or \"all\"",
        ),
    ] {
        let answer = http::request(node, "GET", &format!("/services/talker/logs?{query}"), None)?;
        ensure!(answer.status == 400 && answer.message()? == message, "{answer:?}");
    }
    Ok(())
}

/// A `docker service logs --follow`, ended when this is dropped.
struct Follow {
    child: Child,
    lines: Receiver<String>,
}

impl Follow {
    fn start(node: &Node, service: &str) -> Result<Follow> {
        let mut command: Command = node.docker_command(&["service", "logs", "--follow", "--raw", service]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start docker service logs")?;
        let output = child.stdout.take().context("no output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Follow { child, lines })
    }

    fn next(&self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).context("no line")
    }

    /// Waits for the end of what is followed.
    fn end(&mut self) -> Result<()> {
        until("the end of the log", PATIENCE, || Ok(self.child.try_wait()?)).map(|_| ())
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("end of docker service logs: {error}");
        }
    }
}

fn logs_are_followed(stage: &Stage) -> Result<()> {
    let options = ["--replicas-max-per-node", "1", "--env", "TASK={{.Task.Slot}}"];
    let script = "trap 'exit 0' TERM; echo task $TASK; while :; do sleep 0.1; done";
    create(stage, "followed", &options, script, "1/1 (max 1 per node)")?;
    let mut followers = Vec::new();
    for node in &stage.cluster.nodes {
        followers.push(Follow::start(node, "followed")?);
    }
    for follower in &followers {
        ensure!(follower.next()? == "task 1");
    }
    stage.docker(&["service", "scale", "--detach", "followed=3"])?;
    for follower in &followers {
        let mut seen = [follower.next()?, follower.next()?];
        seen.sort();
        ensure!(seen == ["task 2", "task 3"], "{seen:?}");
    }
    stage.remove(&["followed"])?;
    followers.iter_mut().try_for_each(Follow::end)
}

fn logs_of_a_terminal(stage: &Stage) -> Result<()> {
    create(
        stage,
        "terminal",
        &["--tty", "--constraint", "node.hostname==node2"],
        "echo out; echo wrong >&2; exec sleep 1000",
        "1/1",
    )?;
    until("both lines", PATIENCE, || {
        let target = "/services/terminal/logs?stdout=1&stderr=1";
        let answer = http::request(stage.node(1), "GET", target, None)?;
        ensure!(
            answer.header("Content-Type") == "application/vnd.docker.raw-stream",
            "{answer:?}"
        );
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(text == "out\r\nwrong\r\n", "{text:?}");
        Ok(Some(()))
    })?;
    let refused = stage.refused(&["service", "logs", "terminal"])?;
    ensure!(
        refused.contains("tty service logs only supported with --raw"),
        "{refused}"
    );
    stage.remove(&["terminal"])
}

fn logs_say_which_node_is_away(stage: &Stage) -> Result<()> {
    let options = ["--replicas", "3", "--replicas-max-per-node", "1"];
    create(
        stage,
        "partly",
        &options,
        "echo here; exec sleep 1000",
        "3/3 (max 1 per node)",
    )?;
    let rows = swarm::nodes(stage.node(1))?;
    let follows = |node: &&Node| {
        rows.iter()
            .any(|[name, _, role]| name == node.name() && role != "Leader")
    };
    let away = stage.cluster.nodes[1..]
        .iter()
        .find(follows)
        .context("no follower")?;
    let id = stage.docker(&["node", "inspect", "--format", "{{.ID}}", away.name()])?;
    away.stop_agent(Signal::SIGKILL)?;
    let output = stage.node(1).docker(&["service", "logs", "partly"]);
    away.start_agent()?;
    let output = output?;
    let expected = format!(
        "warning: incomplete log stream. some logs could not be retrieved for the following reasons: node {id} is not available"
    );
    ensure!(output.code != 0 && output.stderr.contains(&expected), "{output}");
    ensure!(output.stdout.lines().count() == 2, "{output}");
    if output.took > Duration::from_secs(30) {
        bail!("it hung: {output}");
    }
    swarm::wait_for_nodes(stage.node(1), 3, PATIENCE)?;
    stage.remove(&["partly"])
}
