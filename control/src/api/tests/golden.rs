//! Answers in full, as clients read them.

use serde_json::{Value, json};

use super::{Served, manager};

/// Random ids are replaced by what they name.
async fn shown(served: &Served, path: &str) -> String {
    let value = served.get(path).await;
    let mut text = serde_json::to_string_pretty(&value).unwrap();
    let state = served.swarm.state();
    for service in state.services.values() {
        text = text.replace(&service.id, &format!("<{}>", service.spec.annotations.name));
    }
    for network in state.networks.values() {
        text = text.replace(&network.id, &format!("<{}>", network.spec.annotations.name));
    }
    text
}

fn web(network: &str) -> Value {
    json!({
        "Name": "web",
        "Labels": {"com.docker.stack.namespace": "shop"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "busybox:latest",
                "Args": ["httpd", "-f"],
                "Env": null,
                "Mounts": [{"Type": "bind", "Source": "/srv", "Target": "/srv", "ReadOnly": true}],
                "Privileges": {"CredentialSpec": null, "NoNewPrivileges": false},
                "DNSConfig": {},
                "Healthcheck": null,
            },
            "Resources": {"Limits": {}, "Reservations": {"MemoryBytes": 8388608}},
            "RestartPolicy": {"Condition": "on-failure"},
            "Placement": {"Constraints": ["node.role==manager"], "Platforms": [{"Architecture": "amd64", "OS": "linux"}]},
            "Networks": [{"Target": network, "Aliases": ["www"]}],
            "ForceUpdate": 0,
        },
        "Mode": {"Replicated": {"Replicas": 2}},
        "EndpointSpec": {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080}]},
    })
}

#[tokio::test]
async fn a_service_with_network_and_port() {
    let served = manager().await;
    served.network("app").await;
    served.service(web("app")).await;
    insta::assert_snapshot!("service", shown(&served, "/services/web").await);
    insta::assert_snapshot!("tasks", shown(&served, "/tasks").await);
    insta::assert_snapshot!("networks", shown(&served, "/networks").await);
    insta::assert_snapshot!("network", shown(&served, "/networks/app?verbose=true").await);
}

#[tokio::test]
async fn a_service_of_an_image_only() {
    let served = manager().await;
    served
        .service(json!({"Name": "bare", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}))
        .await;
    insta::assert_snapshot!("bare", shown(&served, "/services/bare").await);
    insta::assert_snapshot!(
        "bare_with_defaults",
        shown(&served, "/services/bare?insertDefaults=true").await
    );
}

#[tokio::test]
async fn the_swarm_itself() {
    let served = manager().await;
    insta::assert_snapshot!("nodes", shown(&served, "/nodes").await);
    insta::assert_snapshot!("swarm", shown(&served, "/swarm").await);
    insta::assert_snapshot!("info", shown(&served, "/info").await);
    insta::assert_snapshot!("version", shown(&served, "/v1.24/version").await);
}
