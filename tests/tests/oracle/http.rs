//! Raw requests to an Engine API socket, each on a connection of its own.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// An answer that takes longer is a hang.
const DEADLINE: Duration = Duration::from_secs(30);

/// Stands for the status of an answer that was lost, see [`request`].
pub const RESET: u16 = 0;

/// Status and body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub body: String,
}

/// Sends one request to the socket that `host` (`unix://PATH`) names. `path` is sent as it is. An answer that was lost because the
/// connection was reset has the status [`RESET`].
pub fn request(host: &str, method: &str, path: &str, body: Option<&str>) -> Result<Reply> {
    exchange(host, method, path, body).with_context(|| format!("{method} {path}"))
}

fn exchange(host: &str, method: &str, path: &str, body: Option<&str>) -> Result<Reply> {
    let socket = host.trim_start_matches("unix://");
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connect to {socket}"))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let content = body.unwrap_or("");
    let kind = if body.is_some() {
        "Content-Type: application/json\r\n"
    } else {
        ""
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n",
        content.len()
    );
    let mut bytes = Vec::new();
    let exchanged = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(content.as_bytes()))
        .and_then(|()| stream.read_to_end(&mut bytes));
    match exchanged {
        // Who answers without having read the whole body resets the connection behind its answer, which may be lost.
        Err(error) if [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()) => {
            Ok(parse(&bytes).unwrap_or(Reply {
                status: RESET,
                body: String::new(),
            }))
        }
        Err(error) => Err(error).context("no answer"),
        Ok(_) => parse(&bytes),
    }
}

fn parse(bytes: &[u8]) -> Result<Reply> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.context("the answer has no end of headers")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let rest = &bytes[end + 4..];
    let body = if head.contains("\r\ntransfer-encoding: chunked") {
        dechunked(rest)?
    } else {
        rest.to_vec()
    };
    Ok(Reply {
        status,
        body: String::from_utf8_lossy(&body).trim_end().to_string(),
    })
}

fn dechunked(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n");
        let line = line.context("a chunk without a length")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line])?.trim(), 16)?;
        if length == 0 {
            return Ok(body);
        }
        let begin = line + 2;
        ensure!(rest.len() >= begin + length + 2, "a chunk is cut short");
        body.extend_from_slice(&rest[begin..begin + length]);
        rest = &rest[begin + length + 2..];
    }
}
