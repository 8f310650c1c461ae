//! Requests from outside: a client on the segment that is no node.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::command::{self, Output};
use crate::network;
use crate::runs::Process;
use crate::space::Space;

/// One request's outcome, as skep-testbox prints it.
#[derive(Clone, Debug, Deserialize)]
pub struct Reply {
    pub n: usize,
    /// When it was sent, from the first request on.
    pub at_ms: u64,
    /// When it was sent, in Unix time.
    pub unix_ms: u128,
    /// How long it took.
    pub ms: f64,
    pub ok: bool,
    #[serde(default)]
    pub status: u16,
    #[serde(default)]
    pub body: String,
    /// `timeout`, `refused`, `reset`, `unreachable` or `other`; empty if it went well.
    #[serde(default)]
    pub error: String,
    #[serde(default)]
    pub detail: String,
}

/// What the test server said: its own name and whom it saw.
#[derive(Clone, Debug, Deserialize)]
pub struct Seen {
    pub hostname: String,
    pub task: String,
    pub client: String,
    pub client_port: u16,
    pub local: String,
}

impl Reply {
    /// The test server's answer.
    pub fn seen(&self) -> Result<Seen> {
        if !self.ok {
            bail!(
                "request {} failed after {:.0} ms: {} {}",
                self.n,
                self.ms,
                self.error,
                self.detail
            );
        }
        serde_json::from_str(&self.body).with_context(|| format!("answer {:?}", self.body))
    }
}

/// How long a killed node may still refuse: its port on the switch goes down when its first process
/// has ended, and until then the kernel answers for sockets that are closed already. The swarm knows
/// nothing of the death this early, so a refusal now is the dying node's own.
const DYING_MS: u128 = 100;

/// Requests that failed for no fault of the node that was killed at `killed` (Unix time in ms), and how
/// many ended with their server: they were under way, or reached the dying node. A connection to a task on a node that
/// dies cannot be saved, only ended.
pub fn failed_after(replies: &[Reply], killed: u128) -> (Vec<&Reply>, usize) {
    let ended = |reply: &&Reply| {
        let answered = ["refused", "reset"].contains(&reply.error.as_str());
        let under_way = reply.unix_ms <= killed && reply.unix_ms as f64 + reply.ms >= killed as f64;
        under_way || answered && (killed..=killed + DYING_MS).contains(&reply.unix_ms)
    };
    let (before, after): (Vec<&Reply>, Vec<&Reply>) =
        replies.iter().filter(|reply| !reply.ok).partition(ended);
    (after, before.len())
}

/// Unix time in ms.
pub fn unix_ms() -> u128 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis()
}

/// Reads the lines that `skep-testbox get` printed, wherever it ran.
pub fn replies(output: &Output) -> Result<Vec<Reply>> {
    parse(&output.ok()?)
}

fn parse(text: &str) -> Result<Vec<Reply>> {
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("line {line:?}")))
        .collect()
}

/// How many requests each server (by host name) answered; an error if one of them failed.
pub fn count_by_host(replies: &[Reply]) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for reply in replies {
        *counts.entry(reply.seen()?.hostname).or_insert(0) += 1;
    }
    Ok(counts)
}

/// The outside client.
pub struct Client {
    space: Space,
    testbox: PathBuf,
}

impl Client {
    /// A client in namespaces that are plugged in already.
    pub fn new(space: Space, testbox: PathBuf) -> Self {
        Self { space, testbox }
    }

    pub fn address(&self) -> Ipv4Addr {
        network::CLIENT_ADDRESS
    }

    pub fn space(&self) -> &Space {
        &self.space
    }

    /// A program in the client's namespaces.
    pub fn exec(&self, arguments: &[&str]) -> Result<Output> {
        let (program, rest) = arguments.split_first().context("no program given")?;
        command::run(self.space.command(program).args(rest), Duration::from_secs(120))
    }

    /// skep-testbox in the client's namespaces.
    pub fn testbox(&self, arguments: &[&str]) -> Result<Output> {
        command::run(
            self.space.command(&self.testbox).args(arguments),
            Duration::from_secs(120),
        )
    }

    /// `count` requests, one after the other, each with its own connection and 5 s to be answered.
    pub fn get(&self, url: &str, count: usize) -> Result<Vec<Reply>> {
        replies(&self.testbox(&["get", url, "--count", &count.to_string()])?)
    }

    /// Starts `count` requests in the background, one every `interval`, whatever becomes of the others.
    pub fn start_get(&self, url: &str, count: usize, interval: Duration, timeout: Duration) -> Result<Load> {
        let (count, interval, timeout) = (
            count.to_string(),
            interval.as_millis().to_string(),
            timeout.as_millis().to_string(),
        );
        let arguments = [
            "get",
            url,
            "--count",
            &count,
            "--interval-ms",
            &interval,
            "--timeout-ms",
            &timeout,
        ];
        self.start(&arguments)
    }

    /// Starts skep-testbox in the background.
    pub fn start(&self, arguments: &[&str]) -> Result<Load> {
        Load::spawn(self.command(arguments))
    }

    /// The command that [`Self::start`] runs.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.space.command(&self.testbox);
        command.args(arguments);
        command
    }
}

/// Requests under way, or a server; it ends when this is dropped.
pub struct Load {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Load {
    pub(crate) fn spawn(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start the client")?;
        let stdout = child.stdout.take().context("the client has no output")?;
        Ok(Self {
            child,
            stdout: BufReader::new(stdout),
        })
    }

    /// Waits for the next line that is printed.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout
            .read_line(&mut line)
            .context("read what the client prints")?;
        Ok(line)
    }

    /// Tells a program that knows SIGTERM to come to its end.
    pub(crate) fn tell_to_end(&self) -> Result<()> {
        let program = Process::child_of(self.child.id())?;
        kill(Pid::from_raw(program.pid), Signal::SIGTERM).context("end of a program of the client")
    }

    /// Waits for the last request.
    pub fn finish(self) -> Result<Vec<Reply>> {
        parse(&self.output()?)
    }

    /// Waits for the end; what was printed.
    pub fn output(mut self) -> Result<String> {
        let mut text = String::new();
        self.stdout
            .read_to_string(&mut text)
            .context("read what the client prints")?;
        self.child.wait().context("wait for the client")?;
        Ok(text)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // The program is the child of the nsenter that was started; if it is gone, it has ended.
        if let Ok(program) = Process::child_of(self.child.id())
            && let Err(error) = kill(Pid::from_raw(program.pid), Signal::SIGKILL)
        {
            eprintln!("end of a program of the client: {error}");
        }
        if let Err(error) = self.child.wait() {
            eprintln!("wait for a program of the client: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(unix_ms: u128, error: &str) -> Reply {
        let text = format!(r#"{{"n":0,"at_ms":0,"unix_ms":{unix_ms},"ms":10,"ok":false,"error":"{error}"}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn only_a_refusal_of_the_dying_node_is_forgiven() {
        let replies = [
            failed(900, "timeout"),
            failed(995, "timeout"),
            failed(1050, "refused"),
            failed(1050, "timeout"),
            failed(1101, "refused"),
        ];
        let (after, ended) = failed_after(&replies, 1000);
        let after: Vec<u128> = after.iter().map(|reply| reply.unix_ms).collect();
        assert_eq!((after, ended), (vec![900, 1050, 1101], 2));
    }
}
