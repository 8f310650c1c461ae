//! Tools of Swarm's users, in versions of their own choice: Docker's SDK for Python, dockerode, bollard, Ansible and
//! Prometheus. `cargo xtask setup` installs them.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bollard::Docker;
use bollard::models::{
    NetworkAttachmentConfig, ServiceSpec, ServiceSpecMode, ServiceSpecModeReplicated, TaskSpec,
    TaskSpecContainerSpec,
};
use bollard::query_parameters::{
    InspectServiceOptions, ListNodesOptions, ListServicesOptionsBuilder, ListTasksOptionsBuilder,
    UpdateServiceOptionsBuilder,
};
use skep_tests::suite::Test;
use skep_tests::{Node, command, tools, until, workspace};

use crate::PATIENCE;
use crate::stage::Stage;

pub const TESTS: &[Test<Stage>] = &[
    ("the_python_sdk_runs_a_service", python),
    ("dockerode_runs_a_service", dockerode),
    ("bollard_runs_a_service", bollard_runs_a_service),
    ("ansible_changes_nothing_the_second_time", ansible),
    ("prometheus_finds_nodes_services_and_tasks", prometheus),
];

const DEADLINE: Duration = Duration::from_secs(180);

fn script(name: &str) -> PathBuf {
    workspace().join("tests/tests/clients").join(name)
}

fn said_ok(command: &mut Command) -> Result<()> {
    let text = command::run(command, DEADLINE)?.ok()?;
    ensure!(text.ends_with("ok"), "{text}");
    Ok(())
}

fn python(stage: &Stage) -> Result<()> {
    tools::require()?;
    said_ok(
        Command::new(tools::python())
            .arg(script("sdk.py"))
            .env("DOCKER_HOST", stage.node(2).docker_host()),
    )
}

fn dockerode(stage: &Stage) -> Result<()> {
    tools::require()?;
    said_ok(
        Command::new("node")
            .arg(script("dockerode.js"))
            .env("NODE_PATH", tools::node_modules())
            .env("DOCKER_HOST", stage.node(3).docker_host()),
    )
}

fn bollard_runs_a_service(stage: &Stage) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let node = stage.node(2);
    runtime.block_on(async {
        tokio::time::timeout(DEADLINE, with_bollard(node))
            .await
            .context("bollard hung")?
    })
}

async fn with_bollard(node: &Node) -> Result<()> {
    let path = node.docker_host();
    let docker = Docker::connect_with_socket(&path, 60, bollard::API_DEFAULT_VERSION)?
        .negotiate_version()
        .await?;
    ensure!(docker.list_nodes(None::<ListNodesOptions>).await?.len() == 3);
    let swarm = docker.inspect_swarm().await?;
    ensure!(swarm.join_tokens.is_some(), "{swarm:?}");
    let spec = |replicas| ServiceSpec {
        name: Some("bollard".to_string()),
        task_template: Some(TaskSpec {
            container_spec: Some(TaskSpecContainerSpec {
                image: Some("skep-test".to_string()),
                ..Default::default()
            }),
            networks: None::<Vec<NetworkAttachmentConfig>>,
            ..Default::default()
        }),
        mode: Some(ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated {
                replicas: Some(replicas),
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let id = docker.create_service(spec(1), None).await?.id.context("no id")?;
    let service = docker
        .inspect_service("bollard", None::<InspectServiceOptions>)
        .await?;
    ensure!(service.id.as_ref() == Some(&id), "{service:?}");
    let version = service.version.and_then(|v| v.index).context("no version")?;
    let options = UpdateServiceOptionsBuilder::default()
        .version(i32::try_from(version)?)
        .build();
    docker
        .update_service("bollard", spec(2), options.clone(), None)
        .await?;
    let refused = docker.update_service("bollard", spec(3), options, None).await;
    ensure!(
        matches!(&refused, Err(bollard::errors::Error::DockerResponseServerError { status_code: 500, message })
            if message.contains("update out of sequence")),
        "{refused:?}"
    );
    let filters = std::collections::HashMap::from([("service", vec!["bollard"])]);
    let tasks = loop {
        let options = ListTasksOptionsBuilder::default().filters(&filters).build();
        let tasks = docker.list_tasks(Some(options)).await?;
        if tasks.len() == 2 {
            break tasks;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    ensure!(
        tasks.iter().all(|task| task.service_id.as_ref() == Some(&id)),
        "{tasks:?}"
    );
    docker.delete_service("bollard").await?;
    let filters = std::collections::HashMap::from([("name", vec!["bollard"])]);
    let options = ListServicesOptionsBuilder::default().filters(&filters).build();
    ensure!(docker.list_services(Some(options)).await?.is_empty());
    Ok(())
}

fn ansible(stage: &Stage) -> Result<()> {
    tools::require()?;
    let play = |name: &str| {
        let mut command = Command::new(tools::ansible_playbook());
        command
            .args(["--inventory", "localhost,", "--extra-vars"])
            .arg(format!(
                "ansible_python_interpreter={}",
                tools::python().display()
            ))
            .arg(script(name))
            .env("ANSIBLE_COLLECTIONS_PATH", tools::collections())
            .env("ANSIBLE_LOCALHOST_WARNING", "False")
            .env("LC_ALL", "C.UTF-8")
            .env("DOCKER_HOST", stage.node(1).docker_host());
        command::run(&mut command, DEADLINE)?.ok()
    };
    let runs = [play("playbook.yml"), play("playbook.yml")];
    let cleaned = play("clean.yml");
    let [first, second] = runs;
    ensure!(first?.contains("changed=True"), "the first run changed nothing");
    let second = second?;
    ensure!(second.contains("changed=False"), "{second}");
    cleaned.map(|_| ())
}

/// Ends when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("end of prometheus: {error}");
        }
    }
}

fn prometheus(stage: &Stage) -> Result<()> {
    stage.docker(&["network", "create", "--driver", "overlay", "prom-net"])?;
    let options = [
        "--replicas",
        "2",
        "--network",
        "prom-net",
        "--publish",
        "18084:80",
    ];
    stage.create("watched", &options, "2/2")?;
    let directory = stage.cluster.logs().join("prometheus");
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory)?;
    let mut config = "scrape_configs:\n".to_string();
    for role in ["nodes", "services", "tasks"] {
        config.push_str(&format!(
            "- job_name: {role}\n  dockerswarm_sd_configs:\n  - host: {}\n    role: {role}\n    refresh_interval: 1s\n",
            stage.node(1).docker_host()
        ));
    }
    let file = directory.join("prometheus.yml");
    std::fs::write(&file, config)?;
    let log = std::fs::File::create(directory.join("log"))?;
    let _running = Running(
        Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg("--web.listen-address=127.0.0.1:19090")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("prometheus: run `cargo xtask setup`")?,
    );
    let (targets, _) = until("all targets", PATIENCE, || {
        let targets = targets()?;
        let of = |role: &str| targets.iter().filter(|labels| labels["job"] == role).count();
        // Two ports (the mesh's and none) and two addresses of each task are Prometheus' own multiplication.
        if of("nodes") == 3 && of("services") >= 1 && of("tasks") >= 2 {
            return Ok(Some(targets));
        }
        bail!(
            "{} nodes, {} services, {} tasks",
            of("nodes"),
            of("services"),
            of("tasks")
        )
    })?;
    for node in &stage.cluster.nodes {
        let found = targets
            .iter()
            .find(|labels| labels["__meta_dockerswarm_node_hostname"] == node.name());
        let labels = found.with_context(|| format!("no {}", node.name()))?;
        ensure!(
            labels["__meta_dockerswarm_node_address"] == node.address().to_string(),
            "{labels}"
        );
    }
    let task = targets
        .iter()
        .find(|labels| labels["job"] == "tasks")
        .context("no task")?;
    ensure!(task["__meta_dockerswarm_service_name"] == "watched", "{task}");
    ensure!(task["__meta_dockerswarm_task_state"] == "running", "{task}");
    let service = targets
        .iter()
        .find(|labels| labels["job"] == "services")
        .context("no service")?;
    ensure!(
        service["__meta_dockerswarm_service_endpoint_port_publish_mode"] == "ingress",
        "{service}"
    );
    stage.remove(&["watched"])?;
    until("removal of the network", PATIENCE, || {
        stage.docker(&["network", "rm", "prom-net"]).map(Some)
    })
    .map(|_| ())
}

/// What Prometheus discovered, before any relabelling.
fn targets() -> Result<Vec<serde_json::Value>> {
    let mut command = Command::new(tools::python());
    command.args([
        "-c",
        "import requests; print(requests.get('http://127.0.0.1:19090/api/v1/targets', timeout=10).text)",
    ]);
    let text = command::run(&mut command, DEADLINE)?.ok()?;
    let answer: serde_json::Value = serde_json::from_str(&text).context("targets")?;
    let active = answer["data"]["activeTargets"].as_array().context("no targets")?;
    Ok(active
        .iter()
        .map(|target| target["discoveredLabels"].clone())
        .collect())
}
