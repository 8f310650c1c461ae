//! Filters, status codes and texts.

use serde_json::{Value, json};

use super::super::core::query::encode;
use super::swarm_stub::DaemonStub;
use super::{inactive, manager};
use crate::daemon::Membership;

fn service(name: &str) -> Value {
    json!({
        "Name": name,
        "Labels": {"tier": name},
        "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}},
        "Mode": {"Replicated": {"Replicas": 2}},
    })
}

/// A service spec with something set in it.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = service("x");
    let mut at = &mut spec;
    for key in pointer.split('/').skip(1) {
        at = &mut at[key];
    }
    *at = value;
    spec
}

#[tokio::test]
async fn filters_choose() {
    let served = manager().await;
    served.network("app").await;
    served.network("apple").await;
    served.service(service("web")).await;
    served.service(service("webmail")).await;
    let counts = [
        ("services", json!({}), 2),
        ("services", json!({"name": ["web"]}), 2),
        ("services", json!({"name": ["webm"]}), 1),
        ("services", json!({"name": {"webm": true, "x": true}}), 1),
        ("services", json!({"label": ["tier=web"]}), 1),
        ("services", json!({"label": ["tier", "other"]}), 0),
        ("services", json!({"mode": ["global"]}), 0),
        ("services", json!({"runtime": ["container"]}), 2),
        ("tasks", json!({}), 4),
        ("tasks", json!({"service": ["web"]}), 2),
        ("tasks", json!({"service": ["web"], "_up-to-date": ["true"]}), 2),
        ("tasks", json!({"label": ["tier=webmail"]}), 2),
        ("tasks", json!({"name": ["web.1"]}), 1),
        ("tasks", json!({"node": ["one"]}), 4),
        ("tasks", json!({"desired-state": ["running"]}), 4),
        ("tasks", json!({"desired-state": ["shutdown"]}), 0),
        ("nodes", json!({"role": ["manager"]}), 1),
        ("nodes", json!({"role": ["worker"]}), 0),
        ("nodes", json!({"name": ["on"]}), 1),
        ("nodes", json!({"label": ["disk=ssd"]}), 1),
        ("nodes", json!({"node.label": ["disk"]}), 0),
        ("networks", json!({"name": ["app"]}), 2 + 1),
        ("networks", json!({"scope": ["swarm"]}), 3 + 1),
        (
            "networks",
            json!({"driver": ["overlay"], "dangling": ["true"]}),
            2 + 1,
        ),
        ("secrets", json!({"name": ["x"]}), 0),
        ("configs", json!({}), 0),
    ];
    for (kind, filters, count) in counts {
        let path = format!("/v1.41/{kind}?filters={}", encode(&filters.to_string()));
        let found = served.get(&path).await;
        // The Engine of these tests does not filter: its one network is always there.
        assert_eq!(
            found.as_array().unwrap().len(),
            count,
            "{kind} {filters}: {found}"
        );
    }
    let status = served
        .get("/services?status=true&filters=%7B%22name%22%3A%5B%22webmail%22%5D%7D")
        .await;
    assert_eq!(
        status[0]["ServiceStatus"],
        json!({"RunningTasks": 2, "DesiredTasks": 2, "CompletedTasks": 0})
    );
}

#[tokio::test]
async fn bad_requests_are_refused_in_swarms_words() {
    let served = manager().await;
    served.network("app").await;
    served.service(service("web")).await;
    let invalid = "rpc error: code = InvalidArgument desc = ";
    let mut job = with("/Mode", json!({"GlobalJob": {}}));
    job["UpdateConfig"] = json!({});
    let cases = [
        ("GET", "/v1.23/services", Value::Null, 400, "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version".to_string()),
        ("GET", "/v1.99/services", Value::Null, 400, "client version 1.99 is too new. Maximum supported API version is 1.53".to_string()),
        ("GET", "/services/none", Value::Null, 404, "service none not found".to_string()),
        ("DELETE", "/services/none", Value::Null, 404, "service none not found".to_string()),
        ("GET", "/tasks/none", Value::Null, 404, "task none not found".to_string()),
        ("GET", "/nodes/self", Value::Null, 404, "node self not found".to_string()),
        ("GET", "/services?filters=%7B%22x%22%3A%5B%22a%22%5D%7D", Value::Null, 400, "invalid filter 'x'".to_string()),
        ("GET", "/tasks?filters=%7B%22desired-state%22%3A%5B%22x%22%5D%7D", Value::Null, 400, "Invalid desired-state filter: 'x'".to_string()),
        ("GET", "/tasks?filters=%7B%22service%22%3A%5B%22none%22%5D%7D", Value::Null, 404, "service none not found".to_string()),
        ("POST", "/services/create", json!({}), 400, "mismatched Runtime and *Spec fields".to_string()),
        ("POST", "/services/create", service("web"), 409, "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists".to_string()),
        ("POST", "/services/create", service("-"), 400, format!("{invalid}name must be valid as a DNS name component")),
        ("POST", "/services/create", with("/TaskTemplate/ContainerSpec/Image", json!("A:B:C")), 400, format!("{invalid}ContainerSpec: \"A:B:C\" is not a valid repository/tag")),
        ("POST", "/services/create", with("/TaskTemplate/ContainerSpec/Image", json!("")), 400, format!("{invalid}ContainerSpec: image reference must be provided")),
        ("POST", "/services/create", with("/TaskTemplate/Networks", json!([{"Target": "none-such"}])), 404, "network none-such not found".to_string()),
        ("POST", "/services/create", with("/TaskTemplate/Networks", json!([{"Target": "ingress"}])), 400, format!("{invalid}Service cannot be explicitly attached to the ingress network \"ingress\"")),
        ("POST", "/services/create", with("/Mode", json!({"ReplicatedJob": {"MaxConcurrent": u64::MAX}})), 400, format!("{invalid}Maximum concurrent jobs must not be negative")),
        ("POST", "/services/create", with("/Mode", json!({"ReplicatedJob": {"TotalCompletions": u64::MAX}})), 400, format!("{invalid}Total completed jobs must not be negative")),
        ("POST", "/services/create", with("/Mode", json!({"Replicated": {"Replicas": u64::MAX}})), 400, format!("{invalid}Number of replicas must be non-negative")),
        ("POST", "/services/create", with("/TaskTemplate/ContainerSpec/Secrets", json!([{"SecretName": "x"}])), 501, "a secret in a service is not supported by Skep yet".to_string()),
        ("POST", "/services/create", with("/UpdateConfig", json!({"Order": "any"})), 400, "unrecognized update order any".to_string()),
        ("POST", "/services/create", with("/RollbackConfig", json!({"FailureAction": "x"})), 400, "unrecognized update failure action x".to_string()),
        ("POST", "/services/create", with("/EndpointSpec", json!({"Mode": "x"})), 400, "invalid EndpointSpec.Mode: \"x\"".to_string()),
        ("POST", "/services/web/update", service("web"), 400, "invalid service version '': strconv.ParseUint: parsing \"\": invalid syntax".to_string()),
        ("POST", "/services/web/update?version=1", service("web"), 500, "rpc error: code = Unknown desc = update out of sequence".to_string()),
        ("POST", "/networks/create", json!({"Name": "app", "Driver": "overlay"}), 409, "network with name app already exists".to_string()),
        ("POST", "/networks/create", json!({"Name": "app", "Driver": "bridge"}), 409, "network with name app already exists".to_string()),
        ("POST", "/networks/create", json!({"Name": "e", "Driver": "overlay", "Options": {"encrypted": ""}}), 501, "an encrypted overlay network is not supported by Skep yet".to_string()),
        ("POST", "/networks/create", json!({"Name": "bridge", "Driver": "overlay"}), 403, "operation is not permitted on predefined bridge network".to_string()),
        ("POST", "/secrets/create", json!({"Name": "s"}), 501, "a secret is not supported by Skep yet".to_string()),
        ("POST", "/swarm/init", json!({"ListenAddr": "0.0.0.0:2377"}), 503, "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.".to_string()),
        ("POST", "/swarm/unlock", json!({"UnlockKey": "SWMKEY-1-x"}), 409, "swarm is not locked".to_string()),
        ("POST", "/swarm/init", json!({"ListenAddr": "0.0.0.0:2377", "ForceNewCluster": true, "DataPathPort": 80}), 400, "Datapath port number is not in valid range (1024-49151) : 80".to_string()),
        ("POST", "/swarm/init", json!({"ForceNewCluster": true, "DefaultAddrPool": ["10.0.0.0/8"], "SubnetSize": 30}), 400, "subnet size is out of range: 30".to_string()),
        ("POST", "/swarm/init", json!({"ForceNewCluster": true, "DefaultAddrPool": ["10.0.0.0/25"]}), 400, "invalid CIDR: \"10.0.0.0/25\". Subnet size is too small for pool: 24".to_string()),
        ("GET", "/secrets/s", Value::Null, 404, "secret s not found".to_string()),
        ("POST", "/services/create", job, 400, format!("{invalid}Jobs may not have an update config")),
        ("POST", "/services/create", with("/Mode/Global", json!({})), 400, "must specify only one service mode".to_string()),
        ("GET", "/swarm/none", Value::Null, 404, "page not found".to_string()),
    ];
    let before = served.swarm.state().services.len();
    for (method, path, body, status, message) in cases {
        let body = (!body.is_null()).then_some(body);
        let (got, answer) = served.call(method, path, body.clone()).await;
        assert_eq!(
            (got, answer["message"].as_str().unwrap_or("")),
            (status, message.as_str()),
            "{method} {path} {body:?}"
        );
    }
    assert_eq!(served.swarm.state().services.len(), before);
}

#[tokio::test]
async fn who_is_no_manager_says_so() {
    let served = inactive().await;
    for path in [
        "/nodes",
        "/services",
        "/tasks",
        "/swarm",
        "/secrets",
        "/services/x",
    ] {
        let (status, answer) = served.call("GET", path, None).await;
        assert_eq!(status, 503, "{path}");
        let message = answer["message"].as_str().unwrap();
        assert!(
            message.starts_with("This node is not a swarm manager. Use \"docker swarm init\""),
            "{message}"
        );
    }
    served.daemon.set(Membership::Worker(DaemonStub::member()));
    let (status, answer) = served.call("GET", "/nodes", None).await;
    assert_eq!(status, 503);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("Worker nodes can't be used to view")
    );
    let info = served.get("/info").await;
    assert_eq!(info["Swarm"]["LocalNodeState"], "active");
    assert_eq!(info["Swarm"]["ControlAvailable"], false);
}

#[tokio::test]
async fn join_leave_and_init() {
    let served = inactive().await;
    let (status, answer) = served.call("POST", "/swarm/leave", None).await;
    assert_eq!(
        (status, &answer["message"]),
        (503, &json!("This node is not part of a swarm"))
    );
    let join =
        json!({"RemoteAddrs": ["192.0.2.1:2377"], "JoinToken": "SWMTKN-1-a-b", "ListenAddr": "0.0.0.0:2377"});
    assert_eq!(served.call("POST", "/swarm/join", Some(join)).await.0, 200);
    assert_eq!(served.call("POST", "/swarm/leave", None).await.0, 200);
    let init = json!({"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "192.0.2.1", "Availability": "active", "Spec": {}});
    let (status, answer) = served.call("POST", "/swarm/init", Some(init)).await;
    assert_eq!((status, answer), (200, json!("node1aaaaaaaaaaaaaaaaaaaa")));
    assert_eq!(served.call("POST", "/swarm/leave?force=1", None).await.0, 200);
    assert_eq!(
        *served.daemon.calls.lock().unwrap(),
        [
            "join 192.0.2.1:2377 SWMTKN-1-a-b",
            "leave false",
            "init 192.0.2.1",
            "leave true"
        ]
    );
}

#[tokio::test]
async fn a_locked_manager_asks_for_its_key() {
    let served = inactive().await;
    served.daemon.set(Membership::Locked {
        node_id: "node1aaaaaaaaaaaaaaaaaaaa".to_string(),
    });
    let locked = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.";
    for path in ["/swarm", "/nodes", "/services", "/swarm/unlockkey"] {
        let (status, answer) = served.call("GET", path, None).await;
        assert_eq!((status, &answer["message"]), (503, &json!(locked)), "{path}");
    }
    let info = served.get("/info").await;
    assert_eq!(info["Swarm"]["LocalNodeState"], "locked");
    let (status, answer) = served.call("POST", "/swarm/leave", None).await;
    let text =
        "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.";
    assert_eq!((status, &answer["message"]), (503, &json!(text)));
    let wrong = json!({"UnlockKey": "nonsense"});
    let (status, answer) = served.call("POST", "/swarm/unlock", Some(wrong)).await;
    assert_eq!((status, &answer["message"]), (400, &json!("invalid key string")));
    let key = json!({"UnlockKey": format!("SWMKEY-1-{}", "A".repeat(43))});
    assert_eq!(served.call("POST", "/swarm/unlock", Some(key)).await.0, 200);
    assert_eq!(served.get("/swarm/unlockkey").await["UnlockKey"], "");
}

#[tokio::test]
async fn managers_are_locked_by_a_key_that_rotates() {
    let served = manager().await;
    let update = async |lock: bool, query: &str| {
        let swarm = served.get("/swarm").await;
        let mut spec = swarm["Spec"].clone();
        spec["EncryptionConfig"]["AutoLockManagers"] = json!(lock);
        let path = format!("/swarm/update?version={}{query}", swarm["Version"]["Index"]);
        assert_eq!(served.call("POST", &path, Some(spec)).await.0, 200);
        let key = served.get("/swarm/unlockkey").await["UnlockKey"].clone();
        key.as_str().unwrap().to_string()
    };
    let first = update(true, "").await;
    assert!(first.starts_with("SWMKEY-1-"), "{first}");
    assert_eq!(update(true, "").await, first);
    let second = update(true, "&rotateManagerUnlockKey=true").await;
    assert!(second.starts_with("SWMKEY-1-") && second != first);
    assert_eq!(update(false, "&rotateManagerUnlockKey=true").await, "");
}

#[tokio::test]
async fn without_a_leader_reads_and_writes_fail_in_swarms_words() {
    let served = manager().await;
    served.swarm.lose_quorum();
    let text = "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online.";
    for path in [
        "/swarm",
        "/nodes",
        "/nodes/one",
        "/services",
        "/tasks",
        "/swarm/unlockkey",
    ] {
        let (status, answer) = served.call("GET", path, None).await;
        assert_eq!((status, &answer["message"]), (500, &json!(text)), "{path}");
    }
    assert_eq!(served.get("/info").await["Swarm"]["LocalNodeState"], "active");
}

#[tokio::test]
async fn updates_swap_and_keep() {
    let served = manager().await;
    served.service(service("web")).await;
    let inspected = served.get("/services/web").await;
    let version = |service: &Value| service["Version"]["Index"].as_u64().unwrap();
    let mut spec = inspected["Spec"].clone();
    spec["Mode"]["Replicated"]["Replicas"] = json!(3);
    let path = format!("/services/web/update?version={}", version(&inspected));
    assert_eq!(
        served.call("POST", &path, Some(spec)).await,
        (200, json!({"Warnings": null}))
    );
    let scaled = served.get("/services/web").await;
    assert_eq!(scaled["PreviousSpec"], inspected["Spec"]);
    assert_eq!(served.get("/tasks").await.as_array().unwrap().len(), 3);
    let path = format!(
        "/services/web/update?rollback=previous&version={}",
        version(&scaled)
    );
    assert_eq!(
        served.call("POST", &path, Some(scaled["Spec"].clone())).await.0,
        200
    );
    assert_eq!(served.get("/services/web").await["Spec"], inspected["Spec"]);
    let swarm = served.get("/swarm").await;
    let path = format!("/swarm/update?rotateWorkerToken=true&version={}", version(&swarm));
    assert_eq!(
        served.call("POST", &path, Some(swarm["Spec"].clone())).await.0,
        200
    );
    let rotated = served.get("/swarm").await;
    assert_ne!(rotated["JoinTokens"]["Worker"], swarm["JoinTokens"]["Worker"]);
    assert!(
        rotated["JoinTokens"]["Worker"]
            .as_str()
            .unwrap()
            .starts_with("SWMTKN-1-digest-")
    );
    assert_eq!(rotated["JoinTokens"]["Manager"], swarm["JoinTokens"]["Manager"]);
    let node = served.get("/nodes/one").await;
    let mut spec = node["Spec"].clone();
    spec["Role"] = json!("worker");
    let path = format!("/nodes/one/update?version={}", version(&node));
    let (status, answer) = served.call("POST", &path, Some(spec.clone())).await;
    let text =
        "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm";
    assert_eq!((status, &answer["message"]), (400, &json!(text)));
    spec["Role"] = json!("manager");
    spec["Availability"] = json!("drain");
    assert_eq!(served.call("POST", &path, Some(spec)).await.0, 200);
    assert_eq!(served.get("/nodes/one").await["Spec"]["Availability"], "drain");
}

#[tokio::test]
async fn without_a_quorum_reads_say_so_instead_of_what_may_be_old() {
    let served = manager().await;
    served.service(service("web")).await;
    served.swarm.lose_quorum();
    for path in ["/services", "/services/web", "/tasks", "/nodes", "/swarm"] {
        let (status, answer) = served.call("GET", path, None).await;
        assert_eq!(status, 500, "{path}");
        let text = answer["message"].as_str().unwrap_or_default();
        assert!(
            text.starts_with("rpc error: code = Unknown desc = The swarm does not have a leader."),
            "{path}: {answer}"
        );
    }
    assert_eq!(served.call("GET", "/info", None).await.0, 200);
}
