//! Ingress addresses: what the `skep` command asks for, and the labels that services ask for them with.

use serde_json::{Value, json};

use super::cli::docker;
use super::swarm_stub::{DaemonStub, NODE};
use super::{Served, inactive, manager};
use crate::daemon::Membership;
use crate::model::{Change, Dsr, NodeDescription, ReportNode};

const ADDRESSES: &str = "/skep/ingress/addresses";

async fn add(served: &Served, address: &str) -> (u16, Value) {
    served
        .call("POST", ADDRESSES, Some(json!({"address": address})))
        .await
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

fn report_dsr(served: &Served, dsr: Dsr, text: &str) {
    let node = served.swarm.state().nodes[NODE].clone();
    let description = NodeDescription {
        dsr: dsr.into(),
        dsr_text: text.to_string(),
        ..node.description.clone().unwrap()
    };
    served.swarm.commit(Change::ReportNode(ReportNode {
        id: NODE.to_string(),
        description: Some(description),
        ..ReportNode::default()
    }));
}

#[tokio::test]
async fn an_address_comes_and_goes() {
    let served = manager().await;
    assert_eq!(served.get(ADDRESSES).await, json!([]));
    let asked =
        json!({"address": "192.0.2.100/24", "interface": "eth1", "constraints": ["node.role==manager"]});
    let (status, made) = served.call("POST", ADDRESSES, Some(asked)).await;
    assert_eq!((status, &made["address"]), (201, &json!("192.0.2.100/24")));
    let listed = served.get(&format!("/v1.41{ADDRESSES}")).await;
    let facts = json!({
        "id": made["id"], "address": "192.0.2.100/24", "interface": "eth1", "constraints": ["node.role==manager"],
        "index": 1, "epoch": 1, "owners": ["one"], "observers": ["one"], "moved_to": "", "services": [],
        "created_at": listed[0]["created_at"], "updated_at": listed[0]["updated_at"],
    });
    assert_eq!(listed, json!([facts]));
    assert!(
        listed[0]["created_at"]
            .as_str()
            .unwrap()
            .starts_with("2026-11-24T08:00:00")
    );
    // By its address, with or without the prefix length, or by id.
    for reference in ["192.0.2.100", "192.0.2.100%2F24", made["id"].as_str().unwrap()] {
        let path = format!("{ADDRESSES}/{reference}/move");
        let (status, moved) = served.call("POST", &path, Some(json!({"node": "one"}))).await;
        assert_eq!(
            (status, moved),
            (200, json!({"address": "192.0.2.100", "node": "one"}))
        );
    }
    assert_eq!(served.get(ADDRESSES).await[0]["moved_to"], "one");
    let path = format!("{ADDRESSES}/192.0.2.100");
    assert_eq!(served.call("DELETE", &path, None).await.0, 200);
    assert_eq!(served.get(ADDRESSES).await, json!([]));
    // Nothing of it went to the Engine.
    let (status, answer) = served.call("DELETE", &path, None).await;
    assert_eq!(
        (status, message(&answer)),
        (404, "ingress address 192.0.2.100 not found")
    );
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let served = manager().await;
    assert_eq!(add(&served, "192.0.2.100/24").await.0, 201);
    let invalid = "rpc error: code = InvalidArgument desc = ";
    let long = json!({"address": "192.0.2.101/24", "interface": "an-interface-with-a-name"});
    let constraint = json!({"address": "192.0.2.101/24", "constraints": ["zone=a"]});
    let cases = [
        (json!({"address": "192.0.2.100/25"}), 409, "rpc error: code = AlreadyExists desc = ingress address 192.0.2.100 already exists".to_string()),
        (json!({"address": "192.0.2.1/24"}), 400, format!("{invalid}192.0.2.1 is the address of node one")),
        (json!({"address": "fd00::1/64"}), 501, "rpc error: code = Unimplemented desc = IPv6 ingress addresses are not supported yet".to_string()),
        (json!({"address": "x"}), 400, format!("{invalid}invalid ingress address 'x': expected an address with its prefix length, such as 192.168.50.100/24")),
        (long, 400, format!("{invalid}'an-interface-with-a-name' cannot be the name of an interface")),
        (constraint, 400, format!("{invalid}invalid constraint 'zone=a': constraint expected one operator from ==, !=")),
        (json!({}), 400, "invalid JSON: missing field `address` at line 1 column 2".to_string()),
        (json!({"address": "192.0.2.101/24", "nodes": []}), 400, "invalid JSON: unknown field `nodes`, expected one of `address`, `interface`, `constraints` at line 1 column 35".to_string()),
    ];
    for (body, status, text) in cases {
        let (got, answer) = served.call("POST", ADDRESSES, Some(body.clone())).await;
        assert_eq!((got, message(&answer)), (status, text.as_str()), "{body}");
    }
    let (status, answer) = served
        .call(
            "POST",
            &format!("{ADDRESSES}/192.0.2.100/move"),
            Some(json!({"node": "two"})),
        )
        .await;
    assert_eq!((status, message(&answer)), (404, "node two not found"));
    assert_eq!(served.call("PUT", ADDRESSES, None).await.0, 404);
    assert_eq!(served.get(ADDRESSES).await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn who_cannot_write_says_why() {
    let served = inactive().await;
    let body = || Some(json!({"address": "192.0.2.100/24"}));
    let (status, answer) = served.call("POST", ADDRESSES, body()).await;
    assert_eq!(status, 503);
    assert!(message(&answer).contains("\"docker swarm init\""), "{answer}");
    served.daemon.set(Membership::Worker(DaemonStub::member()));
    let move_to = (
        format!("{ADDRESSES}/192.0.2.100/move"),
        Some(json!({"node": "one"})),
    );
    let calls = [
        ("GET", ADDRESSES.to_string(), None),
        ("POST", ADDRESSES.to_string(), body()),
        ("POST", move_to.0, move_to.1),
        ("DELETE", format!("{ADDRESSES}/192.0.2.100"), None),
    ];
    for (method, path, body) in calls {
        let (status, answer) = served.call(method, &path, body).await;
        assert_eq!(status, 503, "{method} {path}");
        assert!(
            message(&answer).starts_with("This node is not a swarm manager. Worker nodes can't be used"),
            "{answer}"
        );
    }
    served.daemon.become_manager(&served.swarm);
    served.swarm.lose_quorum();
    let (status, answer) = served.call("POST", ADDRESSES, body()).await;
    assert_eq!(status, 500);
    assert!(
        message(&answer).starts_with("rpc error: code = Unknown desc = The swarm does not have a leader."),
        "{answer}"
    );
}

/// With the stock CLI, as users do it.
#[tokio::test(flavor = "multi_thread")]
async fn services_ask_for_addresses_by_label() {
    let served = manager().await;
    for address in ["192.0.2.100/24", "192.0.2.101/24"] {
        assert_eq!(add(&served, address).await.0, 201);
    }
    let create = |name: &'static str, port: &'static str, labels: &'static [&'static str]| {
        let served = &served;
        async move {
            let mut words = vec!["service", "create", "--detach", "--name", name, "-p", port];
            labels.iter().for_each(|label| words.extend(["--label", label]));
            words.extend(["busybox", "httpd"]);
            docker(served, &words).await
        }
    };
    create("web", "443:80", &["skep.ingress.address=192.0.2.100"])
        .await
        .unwrap();
    // The same port on another address, and on all the others.
    create(
        "api",
        "443:80",
        &["skep.ingress.address=192.0.2.101", "skep.ingress.mode=local"],
    )
    .await
    .unwrap();
    create("all", "443:80", &[]).await.unwrap();
    let refusals: [(&str, &'static [&'static str], &str); 4] = [
        (
            "443:80",
            &["skep.ingress.address=192.0.2.100"],
            "port '443' is already in use by service 'web'",
        ),
        (
            "444:80",
            &["skep.ingress.address=192.0.2.102"],
            "skep ingress address add 192.0.2.102/PREFIX",
        ),
        (
            "444:80",
            &["skep.ingress.address=fast"],
            "invalid label skep.ingress.address=fast",
        ),
        (
            "444:80",
            &["skep.ingress.mode=fast"],
            "invalid label skep.ingress.mode=fast: expected mesh, dsr or local",
        ),
    ];
    for (port, labels, text) in refusals {
        let error = create("none", port, labels).await.unwrap_err();
        assert!(error.contains(text), "{error}");
    }
    let listed = served.get(ADDRESSES).await;
    assert_eq!(
        (&listed[0]["services"], &listed[1]["services"]),
        (&json!(["web"]), &json!(["api"]))
    );
    let (status, answer) = served
        .call("DELETE", &format!("{ADDRESSES}/192.0.2.100"), None)
        .await;
    assert_eq!(status, 400);
    assert!(
        message(&answer).contains("is in use by service web (label skep.ingress.address)"),
        "{answer}"
    );
    let moved = [
        "service",
        "update",
        "--detach",
        "--label-add",
        "skep.ingress.address=192.0.2.101",
        "web",
    ];
    let error = docker(&served, &moved).await.unwrap_err();
    assert!(
        error.contains("port '443' is already in use by service 'api'"),
        "{error}"
    );
    let shared = [
        "service",
        "update",
        "--detach",
        "--label-rm",
        "skep.ingress.address",
        "api",
    ];
    let error = docker(&served, &shared).await.unwrap_err();
    assert!(
        error.contains("port '443' is already in use by service 'all'"),
        "{error}"
    );
    docker(&served, &["service", "rm", "web"]).await.unwrap();
    assert_eq!(
        served
            .call("DELETE", &format!("{ADDRESSES}/192.0.2.100"), None)
            .await
            .0,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dsr_is_refused_where_the_network_drops_it() {
    let served = manager().await;
    let dsr = [
        "service",
        "create",
        "--detach",
        "--label",
        "skep.ingress.mode=dsr",
        "-p",
        "80",
        "busybox",
    ];
    docker(&served, &dsr).await.unwrap();
    report_dsr(&served, Dsr::Works, "");
    docker(&served, &dsr).await.unwrap();
    report_dsr(&served, Dsr::Dropped, "0 of 5 datagrams of two arrived");
    let error = docker(&served, &dsr).await.unwrap_err();
    let reason = "the network drops packets with another node's source address (seen by node one: 0 of 5 datagrams of two arrived)";
    assert!(error.contains(reason), "{error}");
}
