//! Versions, filters, events and `info`, by raw requests and by the docker CLI.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skep_tests::suite::Test;
use skep_tests::{http, swarm, until};

use crate::PATIENCE;
use crate::stage::Stage;

pub const TESTS: &[Test<Stage>] = &[
    ("every_version_is_answered_with_its_own_fields", versions),
    ("filters_are_moby_s", filters),
    ("swarm_events_are_told_by_every_manager", events),
    ("info_describes_the_swarm", info),
    ("a_stale_version_is_refused_with_swarm_s_text", stale),
];

fn versions(stage: &Stage) -> Result<()> {
    let node = stage.node(2);
    for (version, status, text) in [
        (
            "1.23",
            400,
            "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
        ),
        (
            "1.99",
            400,
            "client version 1.99 is too new. Maximum supported API version is ",
        ),
    ] {
        let answer = http::request(node, "GET", &format!("/v{version}/services"), None)?;
        ensure!(
            answer.status == status && answer.message()?.starts_with(text),
            "{answer:?}"
        );
    }
    stage.create("versions", &["--replicas", "2"], "2/2")?;
    for (version, has_status) in [("1.24", false), ("1.40", false), ("1.41", true), ("1.44", true)] {
        let list = http::get(node, &format!("/v{version}/services?status=true"))?;
        ensure!(
            list[0].get("ServiceStatus").is_some() == has_status,
            "{version}: {list}"
        );
        let command = node
            .docker_command(&["service", "ls", "--quiet"])
            .env("DOCKER_API_VERSION", version)
            .output()?;
        ensure!(command.status.success(), "{version}: {command:?}");
        for path in [
            "nodes", "tasks", "networks", "secrets", "configs", "swarm", "info", "version",
        ] {
            http::get(node, &format!("/v{version}/{path}"))?;
        }
    }
    let bad = http::request(node, "GET", "/services?status=maybe", None)?;
    ensure!(bad.status == 400, "{bad:?}");
    newer_members_are_dropped(stage)?;
    stage.remove(&["versions"])
}

/// A client of 1.39 cannot mean what came later (moby adjustForAPIVersion).
fn newer_members_are_dropped(stage: &Stage) -> Result<()> {
    let node = stage.node(1);
    let spec = json!({
        "Name": "gated",
        "TaskTemplate": {
            "ContainerSpec": {"Image": "skep-test"},
            "Placement": {"MaxReplicas": 1},
        },
        "Mode": {"Replicated": {"Replicas": 0}},
    });
    for (version, kept) in [("1.39", Value::Null), ("1.40", json!(1))] {
        let answer = http::request(node, "POST", &format!("/v{version}/services/create"), Some(&spec))?;
        ensure!(answer.status == 201, "{answer:?}");
        let made = http::get(node, "/services/gated")?;
        let found = &made["Spec"]["TaskTemplate"]["Placement"]["MaxReplicas"];
        ensure!(*found == kept, "{version}: {made}");
        stage.docker(&["service", "rm", "gated"])?;
    }
    Ok(())
}

fn filters(stage: &Stage) -> Result<()> {
    let node = stage.node(3);
    stage.create("filtered", &["--label", "a=b"], "1/1")?;
    let count = |path: &str, filters: Value| -> Result<usize> {
        let list = http::get(
            node,
            &format!("/{path}?filters={}", percent(&filters.to_string())),
        )?;
        Ok(list.as_array().map_or(0, Vec::len))
    };
    for (path, filters, wanted) in [
        ("services", json!({"name": ["filt"]}), 1),
        ("services", json!({"name": {"iltered": true}}), 0),
        ("services", json!({"label": ["a"], "mode": ["replicated"]}), 1),
        ("services", json!({"label": ["a=c"]}), 0),
        ("services", json!({"mode": ["global"]}), 0),
        ("nodes", json!({"role": ["manager"]}), 3),
        ("nodes", json!({"role": ["worker"]}), 0),
        ("nodes", json!({"membership": ["accepted"]}), 3),
        ("nodes", json!({"name": ["node1"]}), 1),
        (
            "tasks",
            json!({"service": ["filtered"], "desired-state": ["running"]}),
            1,
        ),
        (
            "tasks",
            json!({"service": ["filtered"], "_up-to-date": ["true"]}),
            1,
        ),
        ("tasks", json!({"label": ["a=b"]}), 1),
    ] {
        let found = count(path, filters.clone())?;
        ensure!(found == wanted, "{path} {filters}: {found} instead of {wanted}");
    }
    for (path, filters, status) in [
        ("services", json!({"status": ["x"]}), 400),
        ("nodes", json!({"role": ["boss"]}), 400),
        ("nodes", json!({"membership": ["x"]}), 400),
        ("tasks", json!({"desired-state": ["x"]}), 400),
        ("tasks", json!({"service": ["nobody"]}), 404),
        ("tasks", json!({"node": ["nobody"]}), 404),
    ] {
        let target = format!("/{path}?filters={}", percent(&filters.to_string()));
        let answer = http::request(node, "GET", &target, None)?;
        ensure!(answer.status == status, "{target}: {answer:?}");
    }
    stage.remove(&["filtered"])
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn events(stage: &Stage) -> Result<()> {
    let begin = unix_now()?;
    stage.create("eventful", &[], "1/1")?;
    stage.docker(&["service", "scale", "--detach", "eventful=2"])?;
    swarm::wait_for_replicas(stage.node(1), "eventful", "2/2", PATIENCE)?;
    stage.docker(&["network", "create", "--driver", "overlay", "event-net"])?;
    stage.docker(&["network", "rm", "event-net"])?;
    stage.remove(&["eventful"])?;
    for node in &stage.cluster.nodes {
        until("all events", PATIENCE, || {
            let text = node.docker_ok(&[
                "events",
                "--since",
                &begin,
                "--until",
                &unix_now()?,
                "--filter",
                "scope=swarm",
                "--filter",
                "type=service",
                "--filter",
                "type=network",
                "--format",
                "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{index .Actor.Attributes \"replicas.old\"}}>{{index .Actor.Attributes \"replicas.new\"}}",
            ])?;
            for line in [
                "service create eventful >",
                "service update eventful 1>2",
                "service remove eventful >",
                "network create event-net >",
                "network remove event-net >",
            ] {
                ensure!(
                    text.lines().filter(|found| *found == line).count() == 1,
                    "{line}: {text}"
                );
            }
            Ok(Some(()))
        })?;
    }
    let only = stage.docker(&[
        "events",
        "--since",
        &begin,
        "--until",
        &unix_now()?,
        "--filter",
        "service=eventful",
        "--filter",
        "event=remove",
        "--format",
        "{{.Action}}",
    ])?;
    ensure!(only == "remove", "{only}");
    Ok(())
}

/// Unix seconds and more, as clients send times.
fn unix_now() -> Result<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(format!("{}.{:09}", now.as_secs(), now.subsec_nanos()))
}

fn info(stage: &Stage) -> Result<()> {
    for node in &stage.cluster.nodes {
        let info = &http::get(node, "/info")?["Swarm"];
        ensure!(info["Nodes"] == 3 && info["Managers"] == 3, "{info}");
        ensure!(
            info["ControlAvailable"] == true && info["LocalNodeState"] == "active",
            "{info}"
        );
        ensure!(info["NodeAddr"] == node.address().to_string(), "{info}");
        let remote = info["RemoteManagers"].as_array().context("no RemoteManagers")?;
        ensure!(remote.len() == 3, "{info}");
        ensure!(
            info["Cluster"]["ID"] == http::get(node, "/swarm")?["ID"],
            "{info}"
        );
        let text = node.docker_ok(&["info"])?;
        for line in [
            "Swarm: active",
            "Is Manager: true",
            "Managers: 3",
            "Nodes: 3",
            "Task History Retention Limit: 5",
            "Heartbeat Period: 5 seconds",
        ] {
            ensure!(text.contains(line), "{line}: {text}");
        }
        ensure!(
            node.docker_ok(&["system", "df"])?.contains("Images"),
            "no system df"
        );
        let own = node.docker_ok(&["node", "inspect", "self", "--format", "{{.Description.Hostname}}"])?;
        ensure!(own == node.name(), "{own}");
        node.docker_ok(&["node", "ps", "self"])?;
    }
    Ok(())
}

fn stale(stage: &Stage) -> Result<()> {
    let node = stage.node(2);
    stage.create("stale", &[], "1/1")?;
    let service = http::get(node, "/services/stale")?;
    let version = service["Version"]["Index"].as_u64().context("no version")?;
    let target = format!("/services/stale/update?version={version}");
    let first = http::request(node, "POST", &target, Some(&service["Spec"]))?;
    ensure!(
        first.status == 200 && first.json()? == json!({"Warnings": null}),
        "{first:?}"
    );
    let second = http::request(node, "POST", &target, Some(&service["Spec"]))?;
    ensure!(
        second.status == 500
            && second.message()? == "rpc error: code = Unknown desc = update out of sequence",
        "{second:?}"
    );
    for version in ["", "x"] {
        let target = format!("/services/stale/update?version={version}");
        let answer = http::request(node, "POST", &target, Some(&service["Spec"]))?;
        ensure!(answer.status == 400, "{answer:?}");
    }
    stage.remove(&["stale"])
}
