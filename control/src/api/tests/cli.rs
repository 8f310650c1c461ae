//! The stock docker CLI against the API.

use std::process::Stdio;

use tokio::process::Command;
use tokio::time::{Duration, timeout};

use super::{Served, inactive, manager};

/// Runs `docker ...` and answers its standard output; a failure is an error with its standard error.
pub async fn docker(served: &Served, arguments: &[&str]) -> Result<String, String> {
    let socket = format!("unix://{}", served.dir.path().join("skep.sock").display());
    let output = Command::new("docker")
        .args(["-H", &socket])
        .args(arguments)
        .env("DOCKER_CONFIG", served.dir.path())
        .env_remove("DOCKER_API_VERSION")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(60), output).await.unwrap();
    let output = output.expect("the docker CLI is needed: `cargo xtask setup` installs it");
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if output.status.success() {
        Ok(out.into_owned())
    } else {
        Err(error.into_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_runs_a_service() {
    let served = inactive().await;
    let init = docker(&served, &["swarm", "init", "--advertise-addr", "192.0.2.1"])
        .await
        .unwrap();
    assert!(
        init.contains("docker swarm join --token SWMTKN-1-digest-worker 192.0.2.1:2377"),
        "{init}"
    );
    let nodes = docker(
        &served,
        &[
            "node",
            "ls",
            "--format",
            "{{.Hostname}} {{.Status}} {{.ManagerStatus}} {{.Self}}",
        ],
    )
    .await
    .unwrap();
    assert_eq!(nodes, "one Ready Leader true\n");
    docker(&served, &["network", "create", "-d", "overlay", "app"])
        .await
        .unwrap();
    let networks = docker(
        &served,
        &["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"],
    )
    .await
    .unwrap();
    assert_eq!(
        networks,
        "app overlay swarm\nbridge bridge local\ningress overlay swarm\n"
    );
    let created = docker(
        &served,
        &[
            "service",
            "create",
            "--name",
            "web",
            "--replicas",
            "3",
            "--network",
            "app",
            "-p",
            "8080:80",
            "busybox",
            "httpd",
        ],
    );
    let created = created.await.unwrap();
    assert!(created.contains("converged"), "{created}");
    let services = docker(
        &served,
        &[
            "service",
            "ls",
            "--format",
            "{{.Name}} {{.Mode}} {{.Replicas}} {{.Ports}}",
        ],
    )
    .await
    .unwrap();
    assert_eq!(services, "web replicated 3/3 *:8080->80/tcp\n");
    let tasks = docker(
        &served,
        &[
            "service",
            "ps",
            "web",
            "--format",
            "{{.Name}} {{.Node}} {{.DesiredState}}",
        ],
    )
    .await
    .unwrap();
    assert_eq!(tasks, "web.1 one Running\nweb.2 one Running\nweb.3 one Running\n");
    let pretty = docker(&served, &["service", "inspect", "--pretty", "web"])
        .await
        .unwrap();
    assert!(
        pretty.contains("Networks: app") && pretty.contains("PublishedPort = 8080"),
        "{pretty}"
    );
    docker(&served, &["service", "scale", "web=1"]).await.unwrap();
    docker(&served, &["service", "update", "--env-add", "A=b", "web"])
        .await
        .unwrap();
    docker(&served, &["service", "rollback", "web"]).await.unwrap();
    docker(&served, &["node", "update", "--label-add", "disk=ssd", "one"])
        .await
        .unwrap();
    let label = docker(
        &served,
        &["node", "inspect", "self", "--format", "{{.Spec.Labels.disk}}"],
    )
    .await
    .unwrap();
    assert_eq!(label, "ssd\n");
    docker(&served, &["service", "rm", "web"]).await.unwrap();
    docker(&served, &["network", "rm", "app"]).await.unwrap();
    let info = docker(
        &served,
        &[
            "info",
            "--format",
            "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}",
        ],
    )
    .await
    .unwrap();
    assert_eq!(info, "active true\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_deploys_a_stack() {
    let served = manager().await;
    let file = served.dir.path().join("stack.yml");
    let stack = "services:\n  web:\n    image: busybox\n    ports: ['8081:80']\n    networks: [front]\n    deploy: {replicas: 2}\nnetworks:\n  front: {}\n";
    std::fs::write(&file, stack).unwrap();
    let file = file.to_string_lossy().into_owned();
    for _ in 0..2 {
        docker(
            &served,
            &["stack", "deploy", "-c", &file, "--detach=false", "shop"],
        )
        .await
        .unwrap();
    }
    let stacks = docker(&served, &["stack", "ls", "--format", "{{.Name}} {{.Services}}"])
        .await
        .unwrap();
    assert_eq!(stacks, "shop 1\n");
    let tasks = docker(
        &served,
        &["stack", "ps", "shop", "--format", "{{.Name}} {{.DesiredState}}"],
    )
    .await
    .unwrap();
    assert_eq!(tasks, "shop_web.1 Running\nshop_web.2 Running\n");
    docker(&served, &["stack", "rm", "shop"]).await.unwrap();
    assert!(served.swarm.state().services.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_show_what_swarm_shows() {
    let served = manager().await;
    let modes: [(&str, &[&str]); 3] = [
        ("all", &["--mode", "global"]),
        ("each", &["--mode", "global-job"]),
        (
            "work",
            &[
                "--mode",
                "replicated-job",
                "--replicas",
                "3",
                "--max-concurrent",
                "2",
            ],
        ),
    ];
    for (name, options) in modes {
        let create = ["service", "create", "--detach", "--name", name];
        docker(&served, &[&create[..], options, &["busybox"]].concat())
            .await
            .unwrap();
    }
    let format = "{{.Name}} {{.Mode}} {{.Replicas}}";
    let services = docker(&served, &["service", "ls", "--format", format])
        .await
        .unwrap();
    let shown =
        "all global 1/1\neach global job 0/0 (1/1 completed)\nwork replicated job 0/2 (3/3 completed)\n";
    assert_eq!(services, shown);
    let jobs = ["service", "ls", "--quiet", "--filter", "mode=global-job"];
    assert_eq!(docker(&served, &jobs).await.unwrap().lines().count(), 1);
    let error = docker(
        &served,
        &["service", "update", "--detach", "--replicas", "4", "all"],
    )
    .await;
    assert!(
        error
            .unwrap_err()
            .contains("replicas can only be used with replicated")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_reach_the_user() {
    let served = manager().await;
    let error = docker(
        &served,
        &["service", "create", "--detach", "--secret", "s", "busybox"],
    )
    .await
    .unwrap_err();
    assert!(error.contains("secret not found: s"), "{error}");
    let error = docker(&served, &["service", "inspect", "none"])
        .await
        .unwrap_err();
    assert!(error.contains("no such service: none"), "{error}");
}
