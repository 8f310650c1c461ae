//! What goes on for a while through an address: sessions, a stream of connects, questions. Each runs in
//! the background until `finish` waits for its report.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::client::{Client, Load};
use crate::node::Node;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// Questions and answers over one connection.
    Echo,
    /// A connection over which nothing goes until the end.
    Idle,
    /// A connection over which only the server sends.
    Stream,
    /// Questions and answers by datagrams of one flow.
    Udp,
}

impl SessionKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Idle => "idle",
            Self::Stream => "stream",
            Self::Udp => "udp",
        }
    }
}

/// How one session fared.
#[derive(Clone, Debug, Deserialize)]
pub struct Session {
    pub kind: SessionKind,
    pub n: usize,
    /// It made progress once more at its end.
    pub ok: bool,
    /// `timeout`, `refused`, `reset`, `closed`, `garbled`, `unreachable` or `other`; empty if it went well.
    pub error: String,
    /// Host name of the server.
    pub task: String,
    pub opened_unix_ms: u128,
    /// When it ended, well or with its error.
    pub ended_unix_ms: u128,
    /// The client's port.
    pub port: u16,
    pub exchanges: u64,
    pub bytes: u64,
    /// The longest wait for an answer, or for the next bytes of a stream.
    pub longest_gap_ms: u64,
    pub gap_began_unix_ms: u128,
    /// Answers of another server than the first; only datagrams can have them.
    pub changed: u64,
}

/// Sessions under way; they end when this is dropped.
pub struct Sessions(Load);

impl Sessions {
    /// Starts `skep-testbox session ...`, wherever `command` runs it, and returns when all are open.
    fn start(command: Command, count: usize) -> Result<Self> {
        #[derive(Deserialize)]
        struct Open {
            opened: usize,
        }
        let mut load = Load::spawn(command)?;
        let line = load.line()?;
        let Open { opened } = parse(&line)?;
        if opened != count {
            let rest = load.output()?;
            anyhow::bail!("{opened} of {count} sessions could be opened: {rest}");
        }
        Ok(Self(load))
    }

    /// Waits for the end of their time; how each fared, in the order of opening.
    pub fn finish(self) -> Result<Vec<Session>> {
        self.0.output()?.lines().map(parse).collect()
    }

    /// Tells them to end now, with a last sign of life each.
    pub fn end(&self) -> Result<()> {
        self.0.tell_to_end()
    }

    /// [`Self::end`] and [`Self::finish`].
    pub fn stop(self) -> Result<Vec<Session>> {
        self.end()?;
        self.finish()
    }
}

/// A connect that failed.
#[derive(Clone, Debug, Deserialize)]
pub struct FailedConnect {
    pub n: usize,
    pub unix_ms: u128,
    pub ms: f64,
    pub error: String,
    pub detail: String,
}

/// How connects on a fixed schedule fared.
#[derive(Clone, Debug, Deserialize)]
pub struct Connected {
    pub connects: usize,
    pub failed: usize,
    pub slowest_ms: f64,
    pub slowest_unix_ms: u128,
    /// Those that took more than half a second: a first SYN that was lost.
    pub late: usize,
    #[serde(skip)]
    pub failures: Vec<FailedConnect>,
}

/// Connects under way; they end when this is dropped.
pub struct Connects(Load);

impl Connects {
    /// Starts `skep-testbox connect ...`, wherever `command` runs it.
    fn start(command: Command) -> Result<Self> {
        Load::spawn(command).map(Self)
    }

    /// Waits for the last one.
    pub fn finish(self) -> Result<Connected> {
        connected(&self.0.output()?)
    }
}

fn connected(text: &str) -> Result<Connected> {
    let lines: Vec<&str> = text.lines().collect();
    let (summary, failures) = lines.split_last().context("connect printed nothing")?;
    let mut summary: Connected = parse(summary)?;
    summary.failures = failures.iter().map(|line| parse(line)).collect::<Result<_>>()?;
    ensure!(summary.failures.len() == summary.failed, "{text}");
    Ok(summary)
}

/// How an address answered questions on a fixed schedule.
#[derive(Clone, Debug, Deserialize)]
pub struct Answered {
    pub longest_gap_ms: u64,
    pub gap_began_unix_ms: u128,
    /// All of 20 ms and more.
    pub gaps: Vec<Gap>,
    pub asked: u32,
    pub answered: u32,
    /// Questions that somebody refused by ICMP.
    pub refused: u32,
}

/// A time without an answer: when it began (Unix time) and how long it was, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Gap(pub u128, pub u64);

impl Answered {
    /// The longest gap that lies over any moment from `from_ms` to `to_ms` (Unix time), and the longest that does not; 0 if
    /// there is none.
    pub fn longest_over(&self, from_ms: u128, to_ms: u128) -> (u64, u64) {
        let is_over = |gap: &&Gap| gap.0 <= to_ms && gap.0 + u128::from(gap.1) >= from_ms;
        let (over, others): (Vec<&Gap>, Vec<&Gap>) = self.gaps.iter().partition(is_over);
        let longest = |gaps: Vec<&Gap>| gaps.iter().map(|gap| gap.1).max().unwrap_or(0);
        (longest(over), longest(others))
    }
}

/// Questions under way; they end when this is dropped.
pub struct Answers(Load);

impl Answers {
    /// Waits for the last one.
    pub fn finish(self) -> Result<Answered> {
        parse(&self.0.output()?)
    }
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T> {
    serde_json::from_str(line).with_context(|| format!("line {line:?}"))
}

impl Client {
    /// Opens `count` sessions with the test server at `address` (`ADDRESS:PORT`) and keeps them for `length`; returns
    /// when all are open. `interval` is the pause between an answer and the next question.
    pub fn start_sessions(
        &self,
        address: &str,
        kind: SessionKind,
        count: usize,
        length: Duration,
        interval: Duration,
    ) -> Result<Sessions> {
        let arguments = session_arguments(address, kind, count, length, interval);
        let command = self.command(&arguments.each_ref().map(String::as_str));
        Sessions::start(command, count).with_context(|| format!("{} sessions with {address}", kind.name()))
    }

    /// `rate` connects a second to `address` (`ADDRESS:PORT`), whatever becomes of the others.
    pub fn start_connects(&self, address: &str, rate: u32, length: Duration) -> Result<Connects> {
        Connects::start(
            self.command(
                &connect_arguments(address, rate, length)
                    .each_ref()
                    .map(String::as_str),
            ),
        )
    }

    /// A datagram to `address` (no port in it) each `interval`.
    pub fn start_answers(
        &self,
        address: &str,
        port: u16,
        interval: Duration,
        length: Duration,
    ) -> Result<Answers> {
        Ok(Answers(self.start(&[
            "answers",
            address,
            "--port",
            &port.to_string(),
            "--interval-ms",
            &interval.as_millis().to_string(),
            "--seconds",
            &length.as_secs().to_string(),
        ])?))
    }
}

impl Node {
    /// As [`Client::start_sessions`], from inside a container of this node.
    pub fn start_sessions(
        &self,
        container: &str,
        address: &str,
        kind: SessionKind,
        count: usize,
        length: Duration,
        interval: Duration,
    ) -> Result<Sessions> {
        let mut command = self.engine_command(&["exec", container, "skep-testbox"]);
        command.args(session_arguments(address, kind, count, length, interval));
        Sessions::start(command, count).with_context(|| format!("{} sessions with {address}", kind.name()))
    }

    /// As [`Client::start_connects`], from inside a container of this node.
    pub fn start_connects(
        &self,
        container: &str,
        address: &str,
        rate: u32,
        length: Duration,
    ) -> Result<Connects> {
        let arguments = connect_arguments(address, rate, length);
        let mut command = self.docker_command(&["exec", container, "skep-testbox"]);
        command.args(arguments);
        Connects::start(command)
    }
}

fn session_arguments(
    address: &str,
    kind: SessionKind,
    count: usize,
    length: Duration,
    interval: Duration,
) -> [String; 10] {
    [
        "session",
        address,
        "--kind",
        kind.name(),
        "--count",
        &count.to_string(),
        "--seconds",
        &length.as_secs().to_string(),
        "--interval-ms",
        &interval.as_millis().to_string(),
    ]
    .map(String::from)
}

fn connect_arguments(address: &str, rate: u32, length: Duration) -> [String; 6] {
    let seconds = length.as_secs().to_string();
    [
        "connect",
        address,
        "--rate",
        &rate.to_string(),
        "--seconds",
        &seconds,
    ]
    .map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_stand_before_the_summary() {
        let text = r#"{"n":7,"unix_ms":5,"ms":1.5,"error":"refused","detail":"Connection refused"}
{"connects":400,"failed":1,"slowest_ms":1012.5,"slowest_unix_ms":9,"late":3}"#;
        let report = connected(text).unwrap();
        assert_eq!((report.connects, report.late), (400, 3));
        assert_eq!(
            (report.failures[0].n, report.failures[0].error.as_str()),
            (7, "refused")
        );
        assert!(connected(&text.replace("\"failed\":1", "\"failed\":2")).is_err());
        assert!(connected("").is_err());
    }

    #[test]
    fn gaps_are_told_apart_by_when_they_were() {
        let line = r#"{"longest_gap_ms":900,"gap_began_unix_ms":3000,"gaps":[[100,50],[990,380],[3000,900]],"asked":9,"answered":9,"refused":0}"#;
        let answered: Answered = parse(line).unwrap();
        assert_eq!(answered.gaps[1], Gap(990, 380));
        assert_eq!(answered.longest_over(1000, 1400), (380, 900));
        assert_eq!(answered.longest_over(2000, 2500), (0, 900));
    }

    #[test]
    fn a_sessions_line_is_read() {
        let line = r#"{"kind":"stream","n":0,"ok":false,"error":"reset","task":"abc","opened_unix_ms":1,"ended_unix_ms":2,"port":3,"exchanges":4,"bytes":5,"longest_gap_ms":6,"gap_began_unix_ms":7,"changed":0,"reconnects":0}"#;
        let session: Session = parse(line).unwrap();
        assert_eq!(
            (session.kind, session.error.as_str(), session.longest_gap_ms),
            (SessionKind::Stream, "reset", 6)
        );
    }
}
