//! Where the pieces of a log come from: this node's Engine, or another node by way of its managers.

use std::path::Path;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use tokio::sync::mpsc;

use crate::api::answer::empty_body;
use crate::api::core::query::encode;
use crate::api::io::engine::{Engine, read};
use crate::manager::LogError;

/// A log being read.
pub enum Source {
    Here(Incoming),
    There(mpsc::Receiver<Result<Vec<u8>, LogError>>),
    /// The container is gone, and its log with it.
    Nothing,
}

impl Source {
    /// The log of a container of this node's Engine.
    pub async fn here(engine: &Engine, container_id: &str, query: &str) -> Result<Source, LogError> {
        let unreadable = |error: &dyn std::error::Error| LogError::Unreadable(error.to_string());
        let path = format!("/containers/{}/logs?{query}", encode(container_id));
        let request = Request::get(&path)
            .header(HOST, "docker")
            .body(empty_body())
            .map_err(|error| unreadable(&error))?;
        let response = engine.send(request).await.map_err(|error| unreadable(&error))?;
        match response.status() {
            StatusCode::OK => Ok(Source::Here(response.into_body())),
            StatusCode::NOT_FOUND => Ok(Source::Nothing),
            status => {
                let body = read(response.into_body(), &path).await.unwrap_or_default();
                let message: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                let text = message["message"].as_str().map(str::to_string);
                Err(LogError::Unreadable(text.unwrap_or_else(|| status.to_string())))
            }
        }
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>, LogError>> {
        match self {
            Source::Nothing => None,
            Source::There(pieces) => pieces.recv().await,
            Source::Here(body) => Some(match body.frame().await? {
                Ok(frame) => Ok(frame.data_ref().map_or(&[][..], |data| data).to_vec()),
                Err(error) => Err(LogError::Unreadable(error.to_string())),
            }),
        }
    }
}

/// The log of a container of the Engine on `socket`, for a manager elsewhere: each piece as the Engine sent it. `send`
/// says whether more is wanted.
pub async fn container_log<F>(
    socket: &Path,
    container_id: &str,
    query: &str,
    mut send: impl FnMut(Vec<u8>) -> F,
) -> Result<(), LogError>
where
    F: Future<Output = bool>,
{
    let engine = Engine::new(socket.to_path_buf());
    let mut source = Source::here(&engine, container_id, query).await?;
    while let Some(piece) = source.next().await {
        if !send(piece?).await {
            break;
        }
    }
    Ok(())
}
