//! Asks the agent: `DOCKER_HOST` as the docker CLI takes it, else the default socket.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

const DEFAULT_SOCKET: &str = "/run/skep/docker.sock";
const DEADLINE: Duration = Duration::from_secs(15);

/// Reads a page.
pub async fn ask(page: &str) -> anyhow::Result<Value> {
    tell(Method::GET, page, None).await
}

/// Asks for a change, or reads a page. What the agent refuses is an error in its words.
pub async fn tell(method: Method, page: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    let socket = socket(std::env::var("DOCKER_HOST").ok().as_deref())?;
    let answer = tokio::time::timeout(DEADLINE, call(&socket, method, page, body)).await;
    answer.with_context(|| format!("the agent at {} did not answer", socket.display()))?
}

/// A word as a segment of a path.
pub fn escape(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let escaped = word.bytes().map(|byte| match byte {
        byte if plain(byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    escaped.collect()
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

async fn call(socket: &PathBuf, method: Method, page: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    let at = || {
        format!(
            "connect to the agent at {} (is skep agent running?)",
            socket.display()
        )
    };
    let stream = UnixStream::connect(socket).await.with_context(at)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(format!("/skep/{page}"))
        .header("Host", "skep")
        .header("Content-Type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        match refusal(&body) {
            Some(message) => bail!(message),
            None => bail!(
                "{} answers {status} to /skep/{page}: is it Skep's socket?",
                socket.display()
            ),
        }
    }
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&body).context("read the agent's answer")
}

/// Why the agent refused, without the prefix that scripts of the Docker API match. `None` where nobody knows the page.
fn refusal(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let message = body["message"].as_str().filter(|m| *m != "page not found")?;
    let bare = message.strip_prefix("rpc error: code = ");
    let bare = bare.and_then(|rest| rest.split_once(" desc = "));
    Some(bare.map_or(message, |(_, text)| text).to_string())
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

    #[test]
    fn refusals_are_told_without_their_code() {
        let told = |text: &str| refusal(text.as_bytes());
        assert_eq!(
            told(r#"{"message":"rpc error: code = NotFound desc = node x not found"}"#).as_deref(),
            Some("node x not found")
        );
        assert_eq!(
            told(r#"{"message":"This node is not a swarm manager."}"#).as_deref(),
            Some("This node is not a swarm manager.")
        );
        assert_eq!(told(r#"{"message":"page not found"}"#), None);
        assert_eq!(told("<html>"), None);
    }

    #[test]
    fn segments_are_escaped() {
        assert_eq!(escape("192.0.2.1/24"), "192.0.2.1%2F24");
        assert_eq!(escape("a b?#"), "a%20b%3F%23");
    }
}
