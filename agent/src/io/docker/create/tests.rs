//! A task becomes the container that Swarm would make.

use std::collections::BTreeMap;

use skep_control::model::{Annotations, PortConfig, TaskSpec};

use super::*;

fn task() -> TaskItem {
    let container = ContainerSpec {
        image: "shop/web:1".into(),
        command: vec!["/bin/serve".into()],
        env: vec!["ME={{.Service.Name}}.{{.Task.Slot}}".into()],
        hostname: Some("{{.Node.Hostname}}-{{.Task.Slot}}".into()),
        labels: BTreeMap::from([
            ("a".to_string(), "b".to_string()),
            (label::TASK_ID.to_string(), "forged".to_string()),
        ]),
        hosts: vec!["10.0.0.1 db database".into()],
        mounts: vec![MountSpec {
            kind: "bind".into(),
            source: "/var/run/docker.sock".into(),
            target: "/var/run/docker.sock".into(),
            ..MountSpec::default()
        }],
        ..ContainerSpec::default()
    };
    TaskItem {
        id: "t1".into(),
        service_id: "s1".into(),
        slot: 2,
        node_hostname: "n1".into(),
        service: Annotations {
            name: "web".into(),
            ..Annotations::default()
        },
        spec: TaskSpec {
            container,
            ..TaskSpec::default()
        },
        ..TaskItem::default()
    }
}

fn place() -> Place {
    let on = |network: &str, address: &str| NetworkAttachment {
        network_id: network.into(),
        addresses: vec![address.into()],
        aliases: vec!["shop".into()],
    };
    Place {
        node_id: "node1".into(),
        api_socket: "/run/skep/docker.sock".into(),
        resolv_conf: Some("/var/lib/skep/tasks/t1/resolv.conf".into()),
        networks: vec![
            ("engine-a".into(), Some(on("a", "10.0.1.3/24"))),
            ("engine-b".into(), Some(on("b", "10.0.2.3/24"))),
        ],
        ..Place::default()
    }
}

#[test]
fn names_labels_and_templates_are_swarm_s() {
    let made = creation(&task(), &place()).unwrap();
    assert_eq!(made.name, "web.2.t1");
    let labels = made.body.labels.unwrap();
    assert_eq!(labels["a"], "b");
    assert_eq!(labels[label::TASK], "");
    assert_eq!(labels[label::TASK_ID], "t1");
    assert_eq!(labels[label::TASK_NAME], "web.2.t1");
    assert_eq!(labels[label::NODE_ID], "node1");
    assert_eq!(labels[label::SERVICE_ID], "s1");
    assert_eq!(labels[label::SERVICE_NAME], "web");
    assert_eq!(made.body.env.unwrap(), ["ME=web.2"]);
    assert_eq!(made.body.hostname.as_deref(), Some("n1-2"));
    let host = made.body.host_config.unwrap();
    assert_eq!(host.extra_hosts.unwrap(), ["db:10.0.0.1", "database:10.0.0.1"]);
}

#[test]
fn the_first_network_is_in_the_create_and_the_others_follow() {
    let made = creation(&task(), &place()).unwrap();
    assert_eq!(
        made.body.host_config.unwrap().network_mode.as_deref(),
        Some("engine-a")
    );
    let endpoints = made.body.networking_config.unwrap().endpoints_config.unwrap();
    let address = |e: &EndpointSettings| e.ipam_config.clone().unwrap().ipv4_address.unwrap();
    assert_eq!(endpoints.len(), 1);
    assert_eq!(address(&endpoints["engine-a"]), "10.0.1.3");
    assert_eq!(
        endpoints["engine-a"].aliases, None,
        "the Engine must not answer service names"
    );
    let (network, request) = &made.connect[0];
    assert_eq!(network, "engine-b");
    assert_eq!(address(request.endpoint_config.as_ref().unwrap()), "10.0.2.3");
}

#[test]
fn the_docker_socket_becomes_ours_unless_the_task_wants_the_engine_s() {
    let source = |task: &TaskItem| {
        let mounts = creation(task, &place())
            .unwrap()
            .body
            .host_config
            .unwrap()
            .mounts
            .unwrap();
        mounts[0].source.clone().unwrap()
    };
    let mut task = task();
    assert_eq!(source(&task), "/run/skep/docker.sock");
    task.spec
        .container
        .labels
        .insert(label::DOCKER_SOCKET.into(), "engine".into());
    assert_eq!(source(&task), "/var/run/docker.sock");
}

#[test]
fn resolv_conf_is_mounted_unless_the_task_brings_its_own() {
    let targets = |task: &TaskItem| -> Vec<String> {
        let mounts = creation(task, &place())
            .unwrap()
            .body
            .host_config
            .unwrap()
            .mounts
            .unwrap();
        mounts.into_iter().filter_map(|m| m.source).collect()
    };
    let mut task = task();
    assert!(targets(&task).contains(&"/var/lib/skep/tasks/t1/resolv.conf".to_string()));
    task.spec.container.mounts[0].target = "/etc/resolv.conf".into();
    assert_eq!(targets(&task).len(), 1);
}

#[test]
fn what_cannot_be_made_is_refused_by_name() {
    let mut host_port = task();
    host_port.ports = vec![PortConfig {
        publish_mode: PublishMode::Host as i32,
        target_port: 80,
        ..PortConfig::default()
    }];
    assert_eq!(creation(&host_port, &place()), Err(CreationError::HostPort(80)));
    host_port.ports[0].published_port = 8081;
    let body = creation(&host_port, &place()).unwrap().body;
    let bound = body.host_config.unwrap().port_bindings.unwrap();
    let binding = bound["80/tcp"].as_ref().unwrap();
    assert_eq!(binding[0].host_port.as_deref(), Some("8081"));
    assert_eq!(body.exposed_ports, Some(vec!["80/tcp".to_string()]));
    let mut template = task();
    template.spec.container.env = vec!["A={{.Nothing}}".into()];
    assert!(
        creation(&template, &place())
            .unwrap_err()
            .to_string()
            .contains(".Nothing")
    );
    let mut kind = task();
    kind.spec.container.mounts[0].kind = "cluster".into();
    assert_eq!(
        creation(&kind, &place()),
        Err(CreationError::MountType("cluster".into()))
    );
}
