//! The node's own name servers, from its resolv.conf(5).

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

const PATH: &str = "/etc/resolv.conf";
/// The full configuration of systemd-resolved, whose stub on 127.0.0.53 stands in [`PATH`].
const SYSTEMD_PATH: &str = "/run/systemd/resolve/resolv.conf";

#[derive(Debug, thiserror::Error)]
#[error("read {path}: {source}")]
pub struct ResolvConfError {
    path: &'static str,
    source: io::Error,
}

/// Name servers of the node, in order. No file: none.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn upstreams() -> Result<Vec<SocketAddr>, ResolvConfError> {
    let path = if Path::new(SYSTEMD_PATH).exists() {
        SYSTEMD_PATH
    } else {
        PATH
    };
    match fs::read_to_string(path) {
        Ok(text) => Ok(skep_dns::core::upstreams::upstreams(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(ResolvConfError { path, source }),
    }
}
