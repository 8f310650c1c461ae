//! A Docker Engine of a few lines: answers what the tests ask and remembers what it was asked.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio_stream::wrappers::ReceiverStream;

use crate::api::answer::{Body, empty_body, full_body};

#[derive(Clone, Default)]
pub struct EngineStub {
    /// `METHOD target body`, and on an upgraded connection what came in.
    pub asked: Arc<Mutex<Vec<String>>>,
    /// `(METHOD path-suffix, status, answer)`, looked up before the built-in answers.
    pub answers: Arc<Mutex<Vec<(String, u16, Value)>>>,
}

impl EngineStub {
    pub fn start(socket: &Path) -> EngineStub {
        let stub = EngineStub::default();
        let listener = UnixListener::bind(socket).unwrap();
        let serving = stub.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stub = serving.clone();
                let service = service_fn(move |request| {
                    let stub = stub.clone();
                    async move { Ok::<_, Infallible>(stub.answer(request).await) }
                });
                tokio::spawn(
                    http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades(),
                );
            }
        });
        stub
    }

    pub fn answer_with(&self, what: &str, status: u16, answer: Value) {
        self.answers
            .lock()
            .unwrap()
            .push((what.to_string(), status, answer));
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The last body that was sent to a path ending so.
    pub fn body_of(&self, what: &str) -> Value {
        let asked = self.asked();
        let line = asked.iter().rev().find(|line| line.contains(what)).unwrap();
        let body = line.splitn(3, ' ').nth(2).unwrap();
        serde_json::from_str(body).unwrap()
    }

    /// A stream that says one thing and does not end; remembers when its reader leaves.
    fn hang(&self) -> Response<Body> {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let asked = Arc::clone(&self.asked);
        tokio::spawn(async move {
            sender
                .send(Ok(Frame::data(Bytes::from_static(b"first"))))
                .await
                .unwrap();
            sender.closed().await;
            asked.lock().unwrap().push("the reader left".to_string());
        });
        Response::new(StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync())
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let upgrade = request
            .headers()
            .contains_key("upgrade")
            .then(|| hyper::upgrade::on(&mut request));
        let target = request.uri().to_string();
        let method = request.method().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        self.asked
            .lock()
            .unwrap()
            .push(format!("{method} {target} {text}"));
        let path = target.split('?').next().unwrap().to_string();
        let bare = match path.strip_prefix("/v1.41/") {
            Some(rest) => format!("/{rest}"),
            None => path.clone(),
        };
        let key = format!("{method} {bare}");
        let given = self
            .answers
            .lock()
            .unwrap()
            .iter()
            .find(|(what, ..)| key.ends_with(what.as_str()))
            .cloned();
        if let Some((_, status, answer)) = given {
            return reply(status, &answer);
        }
        if let Some(upgrade) = upgrade {
            tokio::spawn(echo(upgrade, Arc::clone(&self.asked)));
            return Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("Connection", "Upgrade")
                .header("Upgrade", "tcp")
                .header("Content-Type", "application/vnd.docker.raw-stream")
                .body(empty_body())
                .unwrap();
        }
        if path.ends_with("/hang/logs") {
            return self.hang();
        }
        built_in(&path, target.contains("label"), body)
    }
}

/// Knows one filter of networks: none of its own has a label.
fn built_in(path: &str, label: bool, body: Bytes) -> Response<Body> {
    if path.ends_with("/version") {
        let details = json!({"ApiVersion": "1.41"});
        let components = json!([{"Name": "Engine", "Version": "20.10.24", "Details": details}]);
        return reply(
            200,
            &json!({"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12", "Components": components}),
        );
    }
    if path.ends_with("/info") {
        return reply(
            200,
            &json!({"Name": "one", "ID": "engine", "Swarm": {"LocalNodeState": "inactive"}}),
        );
    }
    if path.ends_with("/networks") && label {
        return reply(200, &json!([]));
    }
    if path.ends_with("/networks") {
        return reply(
            200,
            &json!([{"Name": "bridge", "Id": "b".repeat(64), "Driver": "bridge", "Scope": "local"}]),
        );
    }
    if path.ends_with("/logs") {
        // With `details`: a log without any has an empty first field.
        return Response::new(full_body(&b"\x01\0\0\0\0\0\0\x07 hello\n"[..]));
    }
    if path.ends_with("/build") {
        let mut response = Response::new(full_body(body));
        response.headers_mut().insert("X-Engine", "yes".parse().unwrap());
        return response;
    }
    reply(404, &json!({"message": "no such thing in this test"}))
}

fn reply(status: u16, value: &Value) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("Content-Type", "application/json")
        .header("Api-Version", "1.41")
        .header("Server", "Docker/20.10.24 (linux)")
        .body(full_body(value.to_string()))
        .unwrap()
}

/// Reads to the end of input, then answers in upper case: works only if the end of one direction comes through.
async fn echo(upgrade: hyper::upgrade::OnUpgrade, asked: Arc<Mutex<Vec<String>>>) {
    let mut stream = TokioIo::new(upgrade.await.unwrap());
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    asked.lock().unwrap().push(format!("hijacked {text}"));
    stream.write_all(text.to_uppercase().as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}
