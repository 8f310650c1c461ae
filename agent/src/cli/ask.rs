//! Asks the agent: `DOCKER_HOST` as the docker CLI takes it, else the default socket.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

const DEFAULT_SOCKET: &str = "/run/skep/docker.sock";
const DEADLINE: Duration = Duration::from_secs(15);

pub async fn ask(page: &str) -> anyhow::Result<Value> {
    let socket = socket(std::env::var("DOCKER_HOST").ok().as_deref())?;
    let answer = tokio::time::timeout(DEADLINE, get(&socket, page)).await;
    answer.with_context(|| format!("the agent at {} did not answer", socket.display()))?
}

fn socket(docker_host: Option<&str>) -> anyhow::Result<PathBuf> {
    match docker_host {
        None | Some("") => Ok(PathBuf::from(DEFAULT_SOCKET)),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) => Ok(PathBuf::from(path)),
            None => bail!(
                "DOCKER_HOST is {host}: skep asks the agent of this machine; use unix://{DEFAULT_SOCKET}"
            ),
        },
    }
}

async fn get(socket: &PathBuf, page: &str) -> anyhow::Result<Value> {
    let at = || {
        format!(
            "connect to the agent at {} (is skep agent running?)",
            socket.display()
        )
    };
    let stream = UnixStream::connect(socket).await.with_context(at)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(format!("/skep/{page}"))
        .header("Host", "skep")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status != StatusCode::OK {
        bail!(
            "{} answers {status} to /skep/{page}: is it Skep's socket?",
            socket.display()
        );
    }
    serde_json::from_slice(&body).context("read the agent's answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_host_is_followed() {
        assert_eq!(socket(None).unwrap(), PathBuf::from(DEFAULT_SOCKET));
        assert_eq!(
            socket(Some("unix:///run/x.sock")).unwrap(),
            PathBuf::from("/run/x.sock")
        );
        assert!(
            socket(Some("tcp://10.0.0.1:2375"))
                .unwrap_err()
                .to_string()
                .contains("tcp://10.0.0.1:2375")
        );
    }
}
