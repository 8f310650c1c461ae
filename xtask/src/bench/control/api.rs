//! The Engine API of a node over its Unix socket, without the CLI's own time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use skep_tests::Node;

/// Longer than the slowest answer that is right.
const DEADLINE: Duration = Duration::from_secs(30);
const VERSION: &str = "v1.41";

/// The node's socket for users: the agent's, or dockerd's where there is none.
pub fn get(node: &Node, path: &str) -> Result<Value> {
    call(&node.docker_host(), "GET", path, None)
}

/// The socket of the node's Engine.
pub fn engine(node: &Node, path: &str) -> Result<Value> {
    call(&node.engine_host(), "GET", path, None)
}

pub fn post(node: &Node, path: &str, body: &Value) -> Result<Value> {
    call(&node.docker_host(), "POST", path, Some(body))
}

fn call(host: &str, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let what = || format!("{method} {path} at {host}");
    let socket = host.strip_prefix("unix://").unwrap_or(host);
    let mut stream = UnixStream::connect(socket).with_context(what)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    // HTTP/1.0: the answer ends with the connection, in one piece.
    write!(
        stream,
        "{method} /{VERSION}{path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .with_context(what)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(what)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("{}: {answer:?}", what()))?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if !status.starts_with('2') {
        bail!("{}: {status} {}", what(), body.trim());
    }
    if body.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(body).with_context(|| format!("{}: {body}", what()))
}

/// A filter as the API takes it, percent-encoded.
pub fn filter(key: &str, value: &str) -> String {
    let text = format!(r#"{{"{key}":["{value}"]}}"#);
    let encoded = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    format!("filters={}", encoded.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_encoded() {
        assert_eq!(
            filter("label", "a=b"),
            "filters=%7B%22label%22%3A%5B%22a%3Db%22%5D%7D"
        );
    }
}
