//! Tests of the API on a served socket: a real state machine behind it, no Raft, no network, a Docker Engine of a few
//! lines.

mod cli;
mod engine_stub;
mod errors;
mod golden;
mod ingress;
mod passing;
mod swarm_stub;

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use super::io::engine::Engine;
use engine_stub::EngineStub;
use swarm_stub::{DaemonStub, SwarmStub};

/// A served API with its client. Everything ends when it is dropped.
pub struct Served {
    pub dir: TempDir,
    pub client: Engine,
    pub daemon: Arc<DaemonStub>,
    pub swarm: Arc<SwarmStub>,
    pub engine: EngineStub,
    _stop: DropGuard,
}

/// A manager of a swarm of one ready node.
pub async fn manager() -> Served {
    let served = inactive().await;
    served.daemon.become_manager(&served.swarm);
    served
}

/// A node in no swarm.
pub async fn inactive() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let engine = EngineStub::start(&dir.path().join("engine.sock"));
    let swarm = SwarmStub::new();
    let daemon = DaemonStub::new(&swarm);
    let stop = CancellationToken::new();
    let socket = dir.path().join("skep.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let served: Arc<DaemonStub> = Arc::clone(&daemon);
    tokio::spawn(super::serve(
        listener,
        served,
        dir.path().join("engine.sock"),
        stop.clone(),
    ));
    Served {
        client: Engine::new(socket),
        dir,
        daemon,
        swarm,
        engine,
        _stop: stop.drop_guard(),
    }
}

impl Served {
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method: Method = method.parse().unwrap();
        let (status, bytes) = self.client.ask(method, path, body.as_ref()).await.unwrap();
        (
            status.as_u16(),
            serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        )
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, value) = self.client.get(path).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{path}: {value}");
        value
    }

    /// Makes an overlay network and answers its id.
    pub async fn network(&self, name: &str) -> String {
        let body = json!({"Name": name, "Driver": "overlay", "Attachable": true});
        let (status, answer) = self.call("POST", "/networks/create", Some(body)).await;
        assert_eq!(status, 201, "{answer}");
        answer["Id"].as_str().unwrap().to_string()
    }

    /// Makes a service and answers its id.
    pub async fn service(&self, spec: Value) -> String {
        let (status, answer) = self.call("POST", "/services/create", Some(spec)).await;
        assert_eq!(status, 201, "{answer}");
        answer["ID"].as_str().unwrap().to_string()
    }
}
