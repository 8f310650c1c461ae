//! What goes through to the Engine, and what is changed on the way.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::super::answer::{empty_body, full_body};
use super::swarm_stub::engine_id;
use super::{inactive, manager};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_version_is_mapped_and_bodies_stream() {
    let served = inactive().await;
    let request = Request::post("/v1.53/build?t=a%2Fb")
        .header("Host", "docker")
        .body(full_body(Bytes::from(vec![7; 3 << 20])))
        .unwrap();
    let response = served.client.send(request).await.unwrap();
    assert_eq!(response.headers()["X-Engine"], "yes");
    assert_eq!(response.headers()["Api-Version"], "1.44");
    let back = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(back.len(), 3 << 20);
    assert!(
        served
            .engine
            .asked()
            .iter()
            .any(|line| line.starts_with("POST /v1.41/build?t=a%2Fb "))
    );
    served.call("GET", "/v1.30/images/json", None).await;
    served.call("GET", "/images/json", None).await;
    let asked = served.engine.asked();
    assert!(
        asked
            .iter()
            .any(|line| line.starts_with("GET /v1.30/images/json")),
        "{asked:?}"
    );
    assert!(
        asked.iter().any(|line| line.starts_with("GET /images/json")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn hijacked_streams_end_one_way_first() {
    let served = inactive().await;
    let mut stream = UnixStream::connect(served.dir.path().join("skep.sock"))
        .await
        .unwrap();
    // The first bytes of the stream come in one piece with the request.
    let head = "POST /v1.44/exec/abc/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}early ";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(answer.contains("application/vnd.docker.raw-stream"), "{answer}");
    stream.write_all(b"and late").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echo = String::new();
    timeout(SOON, stream.read_to_string(&mut echo))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(echo, "EARLY AND LATE");
    assert!(
        served
            .engine
            .asked()
            .contains(&"POST /v1.41/exec/abc/start {}".to_string())
    );
}

#[tokio::test]
async fn ping_answers_without_an_engine() {
    let served = manager().await;
    std::fs::remove_file(served.dir.path().join("engine.sock")).unwrap();
    let request = Request::builder()
        .method(Method::HEAD)
        .uri("/_ping")
        .header("Host", "docker")
        .body(empty_body())
        .unwrap();
    let response = served.client.send(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_string();
    assert_eq!(header("Api-Version"), "1.44");
    assert_eq!(header("Swarm"), "active/manager");
    assert_eq!(header("Ostype"), "linux");
    assert_eq!(header("Builder-Version"), "1");
    let (status, answer) = served.call("GET", "/containers/json", None).await;
    assert_eq!(status, 503);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("Docker Engine of this node does not answer")
    );
    assert_eq!(served.call("GET", "/services", None).await.0, 200);
    assert_eq!(served.get("/version").await["ApiVersion"], "1.44");
}

#[tokio::test]
async fn a_container_gets_its_place_from_the_swarm() {
    let served = manager().await;
    let (app, other) = (served.network("app").await, served.network("other").await);
    served.engine.answer_with(
        "POST /containers/create",
        201,
        json!({"Id": "c1", "Warnings": []}),
    );
    served.engine.answer_with("/connect", 200, json!({}));
    let body = json!({
        "Image": "busybox",
        "HostConfig": {"NetworkMode": "app", "Binds": ["/var/run/docker.sock:/var/run/docker.sock"]},
        "NetworkingConfig": {"EndpointsConfig": {"app": {"Aliases": ["db"]}, "other": {}}},
    });
    let (status, answer) = served
        .call("POST", "/v1.44/containers/create?name=box", Some(body))
        .await;
    assert_eq!((status, &answer["Id"]), (201, &json!("c1")));
    let sent = served.engine.body_of("/containers/create");
    assert_eq!(sent["HostConfig"]["NetworkMode"], engine_id(&app));
    assert_eq!(sent["HostConfig"]["Dns"], json!(["169.254.53.53"]));
    assert_eq!(
        sent["HostConfig"]["Binds"],
        json!(["/run/skep/docker.sock:/var/run/docker.sock"])
    );
    // Engine 20.10 takes one endpoint; the other is connected afterwards.
    let endpoints = sent["NetworkingConfig"]["EndpointsConfig"].as_object().unwrap();
    assert_eq!(endpoints.len(), 1);
    assert_eq!(endpoints["app"]["IPAMConfig"]["IPv4Address"], "10.0.0.2");
    let connect = served
        .engine
        .body_of(&format!("/networks/{}/connect", engine_id(&other)));
    assert_eq!(connect["Container"], "c1");
    assert_eq!(connect["EndpointConfig"]["IPAMConfig"]["IPv4Address"], "10.0.1.2");
    let attachments: Vec<_> = served.swarm.state().attachments.values().cloned().collect();
    assert!(
        attachments
            .iter()
            .all(|attachment| attachment.container_id == "c1")
    );
    assert_eq!(attachments[0].names, ["box", "db"]);

    served
        .engine
        .answer_with("GET /containers/box/json", 200, json!({"Id": "c1"}));
    served
        .engine
        .answer_with("DELETE /containers/box", 204, Value::Null);
    assert_eq!(served.call("DELETE", "/containers/box", None).await.0, 204);
    assert!(served.swarm.state().attachments.is_empty());
}

#[tokio::test]
async fn a_refused_container_gives_its_place_back() {
    let served = manager().await;
    served.network("app").await;
    served.engine.answer_with(
        "POST /containers/create",
        404,
        json!({"message": "No such image: none"}),
    );
    let body = json!({"Image": "none", "HostConfig": {"NetworkMode": "app"}});
    let (status, answer) = served.call("POST", "/containers/create", Some(body)).await;
    assert_eq!((status, &answer["message"]), (404, &json!("No such image: none")));
    assert!(served.swarm.state().attachments.is_empty());
    let body = json!({"Image": "busybox", "HostConfig": {"NetworkMode": "ingress"}});
    let (status, answer) = served.call("POST", "/containers/create", Some(body)).await;
    let text = "Could not attach to network ingress: rpc error: code = PermissionDenied desc = network ingress not manually attachable";
    assert_eq!((status, &answer["message"]), (403, &json!(text)));
}

#[tokio::test]
async fn a_container_joins_and_leaves_an_overlay() {
    let served = manager().await;
    let app = served.network("app").await;
    served.engine.answer_with(
        "GET /containers/box/json",
        200,
        json!({"Id": "c1", "Name": "/box"}),
    );
    served.engine.answer_with("/connect", 200, Value::Null);
    served.engine.answer_with("/disconnect", 200, Value::Null);
    let body = json!({"Container": "box", "EndpointConfig": {"Aliases": ["db"]}});
    let (status, _) = served.call("POST", "/networks/app/connect", Some(body)).await;
    assert_eq!(status, 200);
    let sent = served
        .engine
        .body_of(&format!("/networks/{}/connect", engine_id(&app)));
    assert_eq!(sent["EndpointConfig"]["IPAMConfig"]["IPv4Address"], "10.0.0.2");
    let attachment = served.swarm.state().attachments.values().next().cloned().unwrap();
    assert_eq!(attachment.names, ["box", "db"]);
    let body = json!({"Container": "box", "Force": false});
    assert_eq!(
        served
            .call("POST", "/networks/app/disconnect", Some(body))
            .await
            .0,
        200
    );
    assert!(served.swarm.state().attachments.is_empty());
}

#[tokio::test]
async fn twins_are_hidden() {
    let served = manager().await;
    let app = served.network("app").await;
    let twin = engine_id(&app);
    let local = json!({"Name": "bridge", "Id": "b".repeat(64), "Driver": "bridge", "Scope": "local"});
    let network = json!({"Name": "app", "Id": twin, "Driver": "skep", "Scope": "local", "Containers": {"c1": {"Name": "box"}}});
    served
        .engine
        .answer_with("GET /networks", 200, json!([local, network]));
    served
        .engine
        .answer_with(&format!("GET /networks/{twin}"), 200, network);
    let listed = served.get("/networks").await;
    let seen: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|n| (n["Name"].as_str().unwrap(), n["Scope"].as_str().unwrap()))
        .collect();
    let mut sorted = seen.clone();
    sorted.sort();
    assert_eq!(
        sorted,
        [("app", "swarm"), ("bridge", "local"), ("ingress", "swarm")]
    );
    for reference in ["app", &app, &app[..6], &twin, &twin[..20]] {
        let network = served.get(&format!("/networks/{reference}")).await;
        assert_eq!(
            (&network["Id"], &network["Driver"]),
            (&json!(app), &json!("overlay")),
            "{reference}"
        );
        assert_eq!(network["Containers"]["c1"]["Name"], "box");
    }
    let container = json!({"Id": "c1", "NetworkSettings": {"Networks": {"app": {"NetworkID": twin}}}});
    served
        .engine
        .answer_with("GET /containers/c1/json", 200, container.clone());
    served
        .engine
        .answer_with("GET /containers/json", 200, json!([container]));
    let inspected = served.get("/containers/c1/json").await;
    assert_eq!(
        inspected["NetworkSettings"]["Networks"]["app"]["NetworkID"],
        json!(app)
    );
    let listed = served.get("/containers/json").await;
    assert_eq!(
        listed[0]["NetworkSettings"]["Networks"]["app"]["NetworkID"],
        json!(app)
    );
    assert_eq!(served.call("DELETE", "/networks/app", None).await.0, 204);
    assert!(
        !served
            .engine
            .asked()
            .iter()
            .any(|line| line.starts_with("DELETE"))
    );
}

#[tokio::test]
async fn events_of_both_are_merged() {
    let served = manager().await;
    served.engine.answer_with(
        "GET /events",
        200,
        json!({"Type": "container", "Action": "start"}),
    );
    // The log looks at most once a second whether the node is a manager now.
    let seen = async {
        for number in 0.. {
            tokio::time::sleep(Duration::from_millis(500)).await;
            served.network(&format!("later{number}")).await;
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let soon = now.unwrap().as_secs() + 1;
            let request = Request::get(format!("/events?since=1&until={soon}"))
                .header("Host", "d")
                .body(empty_body())
                .unwrap();
            let response = served.client.send(request).await.unwrap();
            let text = response.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8(text.to_vec()).unwrap();
            if text.contains(r#""Type":"network""#) {
                return text;
            }
        }
        String::new()
    };
    let text = timeout(SOON, seen).await.unwrap();
    let event: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(event["scope"], "swarm");
    assert_eq!(event["Action"], "create");
}

#[tokio::test]
async fn logs_are_framed_as_swarm_does() {
    let served = manager().await;
    let spec = json!({"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}});
    let id = served.service(spec).await;
    let (status, answer) = served.call("GET", "/services/web/logs", None).await;
    assert_eq!(status, 400);
    assert_eq!(
        answer["message"],
        "must specify at least one of 'stdout' or 'stderr'"
    );
    let request = Request::get("/v1.44/services/web/logs?stdout=1&details=1&tail=all")
        .header("Host", "docker")
        .body(empty_body())
        .unwrap();
    let response = served.client.send(request).await.unwrap();
    assert_eq!(
        response.headers()["Content-Type"],
        "application/vnd.docker.multiplexed-stream"
    );
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&bytes[8..]).into_owned();
    let expected = format!(
        "com.docker.swarm.node.id=node1aaaaaaaaaaaaaaaaaaaa,com.docker.swarm.service.id={id},com.docker.swarm.task.id="
    );
    assert!(text.starts_with(&expected), "{text}");
    assert!(text.ends_with(" hello\n"), "{text}");
    let asked = served.engine.asked();
    assert!(
        asked.iter().any(|line| line.contains("/logs?stdout=1&tail=all")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn who_stops_following_leaves_the_engine_too() {
    let served = inactive().await;
    let request = Request::get("/containers/hang/logs?follow=1")
        .header("Host", "docker")
        .body(empty_body())
        .unwrap();
    let mut response = served.client.send(request).await.unwrap();
    let first = timeout(SOON, response.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), Bytes::from_static(b"first"));
    drop(response);
    let left = async {
        while !served.engine.asked().contains(&"the reader left".to_string()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, left).await.unwrap();
}
