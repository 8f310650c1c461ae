//! Raw requests to a node's API, for what the docker CLI does not say or show.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::node::Node;

const DEADLINE: Duration = Duration::from_secs(60);

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    pub status: u16,
    /// Lines of the head, without the first.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// Empty if absent.
    pub fn header(&self, name: &str) -> &str {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("answer {}: {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// The text of an error.
    pub fn message(&self) -> Result<String> {
        Ok(self.json()?["message"].as_str().unwrap_or_default().to_string())
    }
}

/// Sends a request with an optional JSON body to the node's agent.
pub fn request(node: &Node, method: &str, target: &str, body: Option<&Value>) -> Result<HttpAnswer> {
    let host = node.docker_host();
    let path = host.trim_start_matches("unix://");
    let mut stream = UnixStream::connect(path).with_context(|| format!("connect to {path}"))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    // HTTP/1.0: the answer is not chunked and ends with the connection.
    let head = format!(
        "{method} {target} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .with_context(|| format!("{method} {target}"))?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.with_context(|| format!("{method} {target}: no head"))?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|text| text.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    Ok(HttpAnswer {
        status: status.with_context(|| format!("{method} {target}: {head}"))?,
        headers: headers
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
        body: bytes[end + 4..].to_vec(),
    })
}

/// GET that must succeed.
pub fn get(node: &Node, target: &str) -> Result<Value> {
    let answer = request(node, "GET", target, None)?;
    ensure!(
        answer.status == 200,
        "GET {target}: {} {}",
        answer.status,
        String::from_utf8_lossy(&answer.body)
    );
    answer.json()
}
