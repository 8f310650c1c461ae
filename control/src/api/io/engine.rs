//! The node's Docker Engine, by HTTP over its Unix socket. One connection a request: hijacked and endless streams
//! would hold pooled ones anyway, and a restarted Engine is noticed at once.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use crate::api::answer::{Body, BoxError, empty_body, full_body};
use crate::api::core::version::ApiVersion;

/// How long the Engine may take to accept a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long the Engine may take to answer a question of ours (passed-on requests have no deadline: their clients have).
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// How long the Engine may take to say its version: others wait for that.
const VERSION_DEADLINE: Duration = Duration::from_secs(2);
/// After this an Engine is asked for its version again: it may have been upgraded.
const VERSION_AGE: Duration = Duration::from_secs(30);
/// Bytes of an answer that is read whole.
const ANSWER_LIMIT: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the Docker Engine of this node does not answer on {socket}: {source}")]
    Connect { socket: String, source: std::io::Error },
    #[error("the Docker Engine of this node did not accept a connection on {socket} within {} s", CONNECT_DEADLINE.as_secs())]
    ConnectDeadline { socket: String },
    #[error("HTTP with the Docker Engine of this node: {0}")]
    Http(#[source] hyper::Error),
    #[error("asking the Docker Engine of this node for {path}: {source}")]
    Build {
        path: String,
        source: hyper::http::Error,
    },
    #[error("the Docker Engine of this node did not answer {path} within {seconds} s")]
    Deadline { path: String, seconds: u64 },
    #[error("reading the answer of the Docker Engine of this node to {path}: {source}")]
    Read { path: String, source: BoxError },
    #[error("the answer of the Docker Engine of this node to {path} is not JSON: {source}")]
    Json { path: String, source: serde_json::Error },
}

/// API versions that the Engine speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineRange {
    pub oldest: ApiVersion,
    pub newest: ApiVersion,
}

#[derive(Clone, Copy, Default)]
struct Known {
    /// When the Engine was last asked; none after it could not be reached.
    asked: Option<Instant>,
    /// Its last answer.
    range: Option<EngineRange>,
}

pub struct Engine {
    socket: PathBuf,
    known: Mutex<Known>,
}

impl Engine {
    pub fn new(socket: PathBuf) -> Engine {
        Engine {
            socket,
            known: Mutex::new(Known::default()),
        }
    }

    /// Sends a request and answers the head; the body streams. An upgrade is left to the caller.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, EngineError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(EngineError::Http)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the Docker Engine ended");
            }
        });
        sender.send_request(request).await.map_err(EngineError::Http)
    }

    async fn connect(&self) -> Result<UnixStream, EngineError> {
        let socket = self.socket.display().to_string();
        match timeout(CONNECT_DEADLINE, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => {
                self.set(|known| known.asked = None);
                Err(EngineError::Connect { socket, source })
            }
            Err(_) => Err(EngineError::ConnectDeadline { socket }),
        }
    }

    /// Asks a question of ours, with or without a JSON body, and reads the whole answer.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), EngineError> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, "docker");
        let body = match body {
            Some(value) => {
                request = request.header(CONTENT_TYPE, "application/json");
                full_body(value.to_string())
            }
            None => empty_body(),
        };
        let request = request.body(body).map_err(|source| EngineError::Build {
            path: path.to_string(),
            source,
        })?;
        let answer = async {
            let response = self.send(request).await?;
            let status = response.status();
            let bytes = read(response.into_body(), path).await?;
            Ok((status, bytes))
        };
        timeout(ANSWER_DEADLINE, answer)
            .await
            .map_err(|_| EngineError::Deadline {
                path: path.to_string(),
                seconds: ANSWER_DEADLINE.as_secs(),
            })?
    }

    /// GET with a JSON answer.
    pub async fn get(&self, path: &str) -> Result<(StatusCode, Value), EngineError> {
        let (status, bytes) = self.ask(Method::GET, path, None).await?;
        let value = serde_json::from_slice(&bytes).map_err(|source| EngineError::Json {
            path: path.to_string(),
            source,
        })?;
        Ok((status, value))
    }

    /// The versions that the Engine spoke when it was last asked. Never waits.
    pub fn last_range(&self) -> Option<EngineRange> {
        self.known().range
    }

    fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The versions that the Engine speaks; asks it when the last answer is old.
    pub async fn range(&self) -> Result<EngineRange, EngineError> {
        let Known { asked, range } = self.known();
        if let (Some(asked), Some(range)) = (asked, range)
            && asked.elapsed() < VERSION_AGE
        {
            return Ok(range);
        }
        let answer = timeout(VERSION_DEADLINE, self.get("/version")).await;
        let (_, version) = answer.map_err(|_| EngineError::Deadline {
            path: "/version".to_string(),
            seconds: VERSION_DEADLINE.as_secs(),
        })??;
        let read = |key: &str| version[key].as_str().and_then(ApiVersion::parse);
        // An Engine without these fields would be older than any that runs.
        let newest = read("ApiVersion").unwrap_or(ApiVersion { major: 1, minor: 24 });
        let oldest = read("MinAPIVersion").unwrap_or(newest);
        let range = EngineRange { oldest, newest };
        self.set(|known| {
            *known = Known {
                asked: Some(Instant::now()),
                range: Some(range),
            }
        });
        Ok(range)
    }
}

/// Reads a whole answer of the Engine; more than 64 MiB is an error.
pub async fn read(body: Incoming, path: &str) -> Result<Bytes, EngineError> {
    let collected = Limited::new(body, ANSWER_LIMIT)
        .collect()
        .await
        .map_err(|source| EngineError::Read {
            path: path.to_string(),
            source,
        })?;
    Ok(collected.to_bytes())
}
