//! Namespaces held by a first process of their own: its death ends everything in them.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::runs::Process;

/// Mount, network, UTS and PID namespaces.
pub struct Space {
    name: String,
    init: Process,
    /// The `unshare` that waits for the first process. Its standard input is the first process's
    /// life line: both end when the harness does.
    holder: Mutex<Child>,
}

impl Space {
    /// Starts `testbox init --name NAME ...` in new namespaces and waits until it is ready. With
    /// `detached` the namespaces outlive the harness.
    pub fn start(testbox: &Path, name: &str, arguments: &[String], detached: bool) -> Result<Self> {
        let mut command = Command::new("unshare");
        // Slave: what is unmounted outside is unmounted inside as well, and nothing goes the other way.
        command.args([
            "--net",
            "--mount",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "slave",
        ]);
        command
            .arg(testbox)
            .args(["init", "--name", name])
            .args(arguments);
        if detached {
            command.args(["--detached", "yes"]).stdin(Stdio::null());
        } else {
            command.stdin(Stdio::piped());
        }
        // Its own group: Ctrl-C is the harness's to handle.
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut holder = command
            .spawn()
            .with_context(|| format!("start namespaces of {name}: unshare"))?;
        let mut line = String::new();
        if let Some(stdout) = holder.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let Ok(pid) = line.trim().parse() else {
            let output = holder.wait_with_output()?;
            bail!(
                "first process of {name}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        };
        let init = Process::of(pid).with_context(|| format!("first process of {name}"))?;
        Ok(Self {
            name: name.to_string(),
            init,
            holder: Mutex::new(holder),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first process, by its number outside.
    pub fn init(&self) -> Process {
        self.init
    }

    /// The path by which `nsenter --net=` finds the network namespace.
    pub fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.init.pid)
    }

    /// A command in all of the namespaces. It keeps no working directory: give absolute paths.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.init.pid.to_string(),
            "--mount",
            "--net",
            "--uts",
            "--pid",
            "--",
        ]);
        command.arg(program);
        command
    }

    /// Kills the first process, and with it all others at once, as a power cut would.
    pub fn kill(&self) -> Result<()> {
        if self.init.is_alive() {
            kill(Pid::from_raw(self.init.pid), Signal::SIGKILL)
                .with_context(|| format!("kill {}", self.name))?;
        }
        let mut holder = self
            .holder
            .lock()
            .map_err(|_| anyhow::anyhow!("{}: poisoned", self.name))?;
        holder
            .wait()
            .with_context(|| format!("wait for the end of {}", self.name))?;
        Ok(())
    }
}
