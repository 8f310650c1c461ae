//! Our two rules in dockerd's DOCKER-USER chain, by the `iptables` command (the one dockerd itself uses).
//!
//! An accept in a table of our own does not save a packet from dockerd's FORWARD policy DROP: a packet has to survive
//! every base chain of a hook (nft(8)).

use std::io;
use std::process::Output;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::network::core::firewall::docker_user_rules;

const CHAIN: &str = "DOCKER-USER";
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    #[error("run iptables to {operation}: {source}")]
    Run {
        operation: &'static str,
        source: io::Error,
    },
    #[error("iptables did not {operation} within {} s", DEADLINE.as_secs())]
    TimedOut { operation: &'static str },
    #[error("iptables refused to {operation}: {message}")]
    Refused {
        operation: &'static str,
        message: String,
    },
}

/// Puts the rules in front of the chain if they are not in it. Answers whether the chain exists: dockerd makes it, and
/// without it (Docker not started yet, or `--iptables=false`) no policy of dockerd's stands in the way.
///
/// # Errors
/// When iptables is not there or refuses.
pub async fn ensure() -> Result<bool, IptablesError> {
    let listed = run("list DOCKER-USER", &["-n", "-L", CHAIN, "1"], &[]).await?;
    if !listed.status.success() {
        return Ok(false);
    }
    for rule in docker_user_rules() {
        let operation = "check a rule of DOCKER-USER";
        if run(operation, &["-C", CHAIN], &rule).await?.status.success() {
            continue;
        }
        let operation = "add a rule to DOCKER-USER";
        accepted(operation, run(operation, &["-I", CHAIN], &rule).await?)?;
    }
    Ok(true)
}

/// Takes the rules out.
///
/// # Errors
/// When iptables is not there or refuses.
pub async fn remove() -> Result<(), IptablesError> {
    for rule in docker_user_rules() {
        if run("check a rule of DOCKER-USER", &["-C", CHAIN], &rule)
            .await?
            .status
            .success()
        {
            let operation = "remove a rule of DOCKER-USER";
            accepted(operation, run(operation, &["-D", CHAIN], &rule).await?)?;
        }
    }
    Ok(())
}

fn accepted(operation: &'static str, output: Output) -> Result<(), IptablesError> {
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_string();
    Err(IptablesError::Refused { operation, message })
}

async fn run(operation: &'static str, head: &[&str], rule: &[String]) -> Result<Output, IptablesError> {
    let mut command = Command::new("iptables");
    command.arg("--wait").args(head).args(rule).kill_on_drop(true);
    let output = timeout(DEADLINE, command.output())
        .await
        .map_err(|_| IptablesError::TimedOut { operation })?;
    output.map_err(|source| IptablesError::Run { operation, source })
}
