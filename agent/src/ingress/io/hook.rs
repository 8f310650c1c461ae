//! The operator's command at a take-over, for networks that do not follow gratuitous ARP.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// Longer than a cloud's interface takes; a hook that hangs must not hide the next take-over.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("start {}: {source}", .hook.display())]
    Start { hook: PathBuf, source: std::io::Error },
    #[error("{} was killed after {} s", .hook.display(), LIMIT.as_secs())]
    TooSlow { hook: PathBuf },
    #[error("{} failed: {status}", .hook.display())]
    Failed { hook: PathBuf, status: ExitStatus },
}

/// Runs `hook ADDRESS OLD NEW`; its output is the agent's.
///
/// # Errors
/// It does not start, fails, or takes too long.
pub async fn run(hook: &Path, arguments: [&str; 3]) -> Result<(), HookError> {
    run_within(hook, arguments, LIMIT).await
}

async fn run_within(hook: &Path, arguments: [&str; 3], limit: Duration) -> Result<(), HookError> {
    let running = Command::new(hook)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status();
    let hook = hook.to_path_buf();
    match timeout(limit, running).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(HookError::Failed { hook, status }),
        Ok(Err(source)) => Err(HookError::Start { hook, source }),
        Err(_) => Err(HookError::TooSlow { hook }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(directory: &Path, text: &str) -> PathBuf {
        let path = directory.join("hook");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn told_who_held_it_and_who_does() {
        let directory = tempfile::tempdir().unwrap();
        let hook = script(directory.path(), "#!/bin/sh\necho \"$@\" > \"$0.told\"\n");
        run(&hook, ["192.0.2.1", "-", "node2"]).await.unwrap();
        let told = std::fs::read_to_string(directory.path().join("hook.told")).unwrap();
        assert_eq!(told, "192.0.2.1 - node2\n");
    }

    #[tokio::test]
    async fn failure_and_slowness_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = ["a", "b", "c"];
        let hook = script(directory.path(), "#!/bin/sh\nexit 3\n");
        assert!(
            matches!(run(&hook, arguments).await, Err(HookError::Failed { status, .. }) if status.code() == Some(3))
        );
        let hook = script(directory.path(), "#!/bin/sh\nexec sleep 60\n");
        let slow = run_within(&hook, arguments, Duration::from_millis(100)).await;
        assert!(matches!(slow, Err(HookError::TooSlow { .. })));
        let missing = run(&directory.path().join("none"), arguments).await;
        assert!(matches!(missing, Err(HookError::Start { .. })));
    }
}
