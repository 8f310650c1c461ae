//! A container's TCP sockets, as the kernel shows them to whoever may look at one of its processes.

use std::io;

use crate::core::sockets::{Sockets, read};

/// The sockets in the network namespace of the process.
///
/// # Errors
/// When the tables cannot be read: the process is gone.
pub async fn of_process(pid: i64) -> io::Result<Sockets> {
    let tcp = tokio::fs::read_to_string(format!("/proc/{pid}/net/tcp")).await?;
    let tcp6 = match tokio::fs::read_to_string(format!("/proc/{pid}/net/tcp6")).await {
        Ok(text) => text,
        // A kernel without IPv6 has no such table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    Ok(read(&tcp, &tcp6))
}
