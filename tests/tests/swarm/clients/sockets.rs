//! The socket as tools use it: from inside tasks, hijacked streams, builds and copies, and many who wait.

use std::io::Write;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use skep_tests::suite::Test;
use skep_tests::{Node, http, swarm};

use crate::stage::Stage;

pub const TESTS: &[Test<Stage>] = &[
    (
        "a_task_that_mounts_the_docker_socket_gets_the_swarm_s",
        mounted_socket,
    ),
    ("builds_copies_and_attached_streams_pass_through", streams),
    ("fifty_waiting_clients_leave_the_leader_alone", waiting),
];

/// `docker ARGUMENTS` with an input.
fn fed(node: &Node, arguments: &[&str], input: &[u8]) -> Result<String> {
    let mut child = node
        .docker_command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no input")?.write_all(input)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn mounted_socket(stage: &Stage) -> Result<()> {
    let mount = "type=bind,source=/var/run/docker.sock,target=/var/run/docker.sock,readonly";
    let tasks = stage.create(
        "tool",
        &["--mount", mount, "--constraint", "node.hostname==node2"],
        "1/1",
    )?;
    let node = stage.node(2);
    let pid = node.docker_ok(&["inspect", "--format", "{{.State.Pid}}", &tasks[0].id])?;
    let socket = format!("unix:///proc/{pid}/root/var/run/docker.sock");
    let inside = [
        "docker",
        "--host",
        &socket,
        "service",
        "ls",
        "--format",
        "{{.Name}}",
    ];
    let services = node.exec(&inside)?.ok()?;
    ensure!(services == "tool", "{services}");
    stage.remove(&["tool"])
}

fn streams(stage: &Stage) -> Result<()> {
    let node = stage.node(3);
    let directory = stage.cluster.logs().join("build");
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("Dockerfile"), "FROM busybox\nCOPY word /word\n")?;
    std::fs::write(directory.join("word"), "built\n")?;
    let context = directory.to_str().context("path")?;
    let build = node
        .docker_command(&["build", "--quiet", "--tag", "built", context])
        .env("DOCKER_BUILDKIT", "0")
        .output()?;
    ensure!(build.status.success(), "{build:?}");
    ensure!(node.docker_ok(&["run", "--rm", "built", "cat", "/word"])? == "built");
    // Both attach: one with an input that ends, one to what a container will say.
    ensure!(fed(node, &["run", "--rm", "--interactive", "built", "cat"], b"said\n")? == "said\n");
    node.docker_ok(&[
        "create",
        "--name",
        "echo",
        "built",
        "sh",
        "-c",
        "sleep 0.5; echo said",
    ])?;
    ensure!(node.docker_ok(&["start", "--attach", "echo"])? == "said");
    node.docker_ok(&["rm", "--force", "echo"])?;
    node.docker_ok(&["run", "--detach", "--name", "target", "built", "sleep", "1000"])?;
    ensure!(
        fed(
            node,
            &["exec", "-i", "target", "tr", "a-z", "A-Z"],
            b"half closed\n"
        )? == "HALF CLOSED\n"
    );
    std::fs::write(directory.join("word"), "copied\n")?;
    let file = directory.join("word");
    let file = file.to_str().context("path")?;
    node.docker_ok(&["cp", file, "target:/word"])?;
    ensure!(node.docker_ok(&["exec", "target", "cat", "/word"])? == "copied");
    let back = directory.join("back");
    node.docker_ok(&["cp", "target:/word", back.to_str().context("path")?])?;
    ensure!(std::fs::read_to_string(&back)? == "copied\n");
    // A terminal of our own for `exec -it`.
    let typed = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command"])
        .arg(format!(
            "docker --host {} exec -it target sh -c 'test -t 0 && stty size && echo on a terminal'",
            node.docker_host()
        ))
        .arg("/dev/null")
        .stdin(Stdio::null())
        .output()
        .context("script (package bsdutils)")?;
    let text = String::from_utf8_lossy(&typed.stdout);
    ensure!(
        typed.status.success() && text.contains("on a terminal"),
        "{typed:?}"
    );
    node.docker_ok(&["rm", "--force", "target"])?;
    node.docker_ok(&["rmi", "--force", "built"])?;
    Ok(())
}

/// What fifty CLIs that wait for a service ask in two seconds, and what that costs the leader: below half a core.
fn waiting(stage: &Stage) -> Result<()> {
    /// A waiting CLI asks three questions five times a second.
    const ROUNDS: u32 = 50 * 5 * 2;
    stage.create("awaited", &["--replicas", "3"], "3/3")?;
    let rows = swarm::nodes(stage.node(1))?;
    let leads = |node: &&Node| {
        rows.iter()
            .any(|[name, _, role]| name == node.name() && role == "Leader")
    };
    let leader = stage.cluster.nodes.iter().find(leads).context("no leader")?;
    let filters = "%7B%22service%22%3A%5B%22awaited%22%5D%2C%22_up-to-date%22%3A%5B%22true%22%5D%7D";
    let before = cpu_ms(leader)?;
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        http::get(leader, "/services/awaited")?;
        http::get(leader, &format!("/tasks?filters={filters}"))?;
        http::get(leader, "/nodes")?;
    }
    let took = begin.elapsed();
    let spent = cpu_ms(leader)?.saturating_sub(before);
    println!(
        "    {ROUNDS} rounds of questions: {spent} ms of CPU in {took:.1?}; 2 s of fifty CLIs may cost 1000 ms"
    );
    // An unoptimised build is several times slower; it must not be slower than all the CPU there is.
    let limit = if cfg!(debug_assertions) { 10_000 } else { 1000 };
    ensure!(spent < limit, "{spent} ms");
    stage.remove(&["awaited"])
}

/// CPU time of the node's agent, user and system (proc_pid_stat(5); 100 ticks a second).
fn cpu_ms(node: &Node) -> Result<u64> {
    let path = format!("/proc/{}/stat", node.agent()?.pid);
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let fields = text.rsplit_once(") ").context("no name")?.1;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<u64, _>>()? * 10)
}
