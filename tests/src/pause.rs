//! Stopping a node's processes for a moment, and starving them: neither is a death.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::Load;
use crate::node::Node;
use crate::wait;

/// For a starved machine; a process stops when it next runs.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

impl Node {
    /// Stops all of the node's processes, those of its containers included, for `length`. The kernel goes
    /// on forwarding.
    pub fn pause(&self, length: Duration) -> Result<()> {
        pause(&self.processes()?, length)
    }

    /// Stops the agent alone for `length`.
    pub fn pause_agent(&self, length: Duration) -> Result<()> {
        pause(&BTreeSet::from([self.agent()?.pid]), length)
    }

    /// Starts `count` programs on the node that use all the CPU they get, until what is returned is dropped.
    pub fn starve(&self, count: usize) -> Result<Vec<Load>> {
        let space = self.space()?;
        let hog = || {
            let mut command = space.command("busybox");
            command.args(["sh", "-c", "while :; do :; done"]);
            Load::spawn(command)
        };
        (0..count).map(|_| hog()).collect()
    }

    /// Numbers outside of all processes in the node's namespace and those below it.
    fn processes(&self) -> Result<BTreeSet<i32>> {
        let init = self.space()?.init().pid;
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = namespace(init).with_context(|| format!("namespace of {}", self.name()))?;
        let mut parents = BTreeMap::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid {
                // One that ended meanwhile has neither.
                parents.insert(pid, (parent(pid).unwrap_or(0), namespace(pid)));
            }
        }
        let inside = |pid: &i32| {
            let mut at = *pid;
            while let Some((parent, namespace)) = parents.get(&at) {
                if namespace.as_ref() == Some(&ours) {
                    return true;
                }
                at = *parent;
            }
            false
        };
        Ok(parents.keys().copied().filter(inside).collect())
    }
}

fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.1.parse().ok()
}

/// State and parent, as `/proc/PID/stat` has them (proc_pid_stat(5)).
fn stat(pid: i32) -> Option<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit(')').next()?.split_whitespace();
    Some((fields.next()?.to_string(), fields.next()?.to_string()))
}

/// Sends SIGSTOP and waits until the process stands still, or is gone.
fn stop(pid: i32) -> Result<()> {
    signal(pid, Signal::SIGSTOP)?;
    wait::until(&format!("stop of process {pid}"), STOP_DEADLINE, || {
        Ok(stat(pid)
            .is_none_or(|(state, _)| ["T", "Z", "X"].contains(&state.as_str()))
            .then_some(()))
    })?;
    Ok(())
}

/// An `nsenter` whose child stops would stop itself, and nobody would wake it: the child, once killed, would stay a zombie
/// and keep the namespaces of a dead node alive. So those that wait for one of the processes are stopped first and woken
/// last. They must stand still before the first child does: a waiting process that a signal wakes looks at its children
/// once more (do_wait, kernel/exit.c).
fn pause(processes: &BTreeSet<i32>, length: Duration) -> Result<()> {
    let waits =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "nsenter\n");
    let waiting: BTreeSet<i32> = processes
        .iter()
        .filter_map(|pid| parent(*pid))
        .filter(waits)
        .collect();
    let stopped = waiting
        .iter()
        .try_for_each(|pid| stop(*pid))
        .and_then(|()| processes.iter().try_for_each(|pid| signal(*pid, Signal::SIGSTOP)));
    if stopped.is_ok() {
        std::thread::sleep(length);
    }
    let woken: Vec<Result<()>> = processes
        .iter()
        .chain(&waiting)
        .map(|pid| signal(*pid, Signal::SIGCONT))
        .collect();
    woken.into_iter().collect::<Result<()>>().and(stopped)
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{signal} to {pid}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;
    use crate::runs::Process;

    #[test]
    fn who_waits_for_a_paused_process_sees_its_end() -> Result<()> {
        for _ in 0..20 {
            let mut nsenter = Command::new("nsenter")
                .args(["--pid=/proc/self/ns/pid", "--", "sleep", "60"])
                .spawn()?;
            let (child, _) = wait::until("the child", STOP_DEADLINE, || {
                Process::child_of(nsenter.id()).map(Some)
            })?;
            pause(&BTreeSet::from([child.pid]), Duration::from_millis(1))?;
            signal(child.pid, Signal::SIGKILL)?;
            let ended = wait::until("the end of nsenter", STOP_DEADLINE, || Ok(nsenter.try_wait()?));
            if ended.is_err() {
                nsenter.kill()?;
            }
            assert_eq!(ended?.0.signal(), Some(Signal::SIGKILL as i32));
        }
        Ok(())
    }
}
