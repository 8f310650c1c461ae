//! The node's nftables table, by the `nft` command.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::network::core::firewall::TABLE;

const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("run nft to {operation}: {source}")]
    Run {
        operation: &'static str,
        source: io::Error,
    },
    #[error("nft did not {operation} within {} s", DEADLINE.as_secs())]
    TimedOut { operation: &'static str },
    #[error("nft refused to {operation}: {message}")]
    Refused {
        operation: &'static str,
        message: String,
    },
}

/// Replaces the table in one transaction.
///
/// # Errors
/// When nft is not there or refuses; the old table is then still in force.
pub async fn apply(script: &str) -> Result<(), NftError> {
    run("replace table skep", &["-f", "-"], script).await
}

/// Whether the table is there.
///
/// # Errors
/// When nft is not there.
pub async fn exists() -> Result<bool, NftError> {
    match run(
        "look for table skep",
        &["list", "chain", "inet", TABLE, "postrouting"],
        "",
    )
    .await
    {
        Ok(()) => Ok(true),
        Err(NftError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the table if it is there.
///
/// # Errors
/// When nft is not there or refuses.
pub async fn remove() -> Result<(), NftError> {
    let script = format!("table inet {TABLE}\ndelete table inet {TABLE}\n");
    run("remove table skep", &["-f", "-"], &script).await
}

async fn run(operation: &'static str, arguments: &[&str], input: &str) -> Result<(), NftError> {
    let run_error = |source| NftError::Run { operation, source };
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(run_error)?;
    let stdin = child.stdin.take();
    let work = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = timeout(DEADLINE, work)
        .await
        .map_err(|_| NftError::TimedOut { operation })?
        .map_err(run_error)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_string();
    Err(NftError::Refused { operation, message })
}
