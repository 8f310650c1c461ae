//! What the outside client sees of an address while its holder dies: the same for all who are measured.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde_json::Value;
use skep_tests::Client;
use skep_tests::client::Load;

/// From one question to the address to the next.
const QUESTIONS_MS: u32 = 2;
/// Kind, how many, and the pause between two exchanges of one.
const SESSIONS: &[(&str, u32, u32)] = &[("echo", 4, 5), ("idle", 20, 0), ("stream", 4, 0), ("udp", 4, 5)];
/// New connections a second.
const CONNECTS: u32 = 50;

/// Questions, sessions and new connections under way.
pub struct Watch {
    answers: Load,
    sessions: Vec<Load>,
    connects: Load,
}

/// What they saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The machine's load average over a minute, at the end.
    pub load: f64,
    /// The longest time for which the address did not answer, and when it began (Unix time in ms).
    pub gap_ms: f64,
    pub gap_began_ms: u64,
    pub sessions: Vec<Session>,
    pub connects: u64,
    pub failed_connects: u64,
    pub slowest_connect_ms: f64,
}

/// One connection, or one client of UDP.
#[derive(Clone, Debug)]
pub struct Session {
    pub kind: String,
    pub ok: bool,
    pub error: String,
    /// Who served it, by its own name.
    pub task: String,
    pub gap_ms: f64,
}

impl Watch {
    /// Starts everything, for so many seconds.
    pub fn start(client: &Client, address: Ipv4Addr, port: u16, seconds: u32) -> Result<Self> {
        let target = format!("{address}:{port}");
        let seconds = seconds.to_string();
        let start = |words: &[&str]| client.start(&[words, &["--seconds", &seconds]].concat());
        let mut sessions = Vec::new();
        for (kind, count, pause_ms) in SESSIONS {
            let (count, pause) = (count.to_string(), pause_ms.to_string());
            sessions.push(start(&[
                "session",
                &target,
                "--kind",
                kind,
                "--count",
                &count,
                "--interval-ms",
                &pause,
            ])?);
        }
        Ok(Self {
            answers: start(&[
                "answers",
                &address.to_string(),
                "--port",
                &port.to_string(),
                "--interval-ms",
                &QUESTIONS_MS.to_string(),
            ])?,
            sessions,
            connects: start(&["connect", &target, "--rate", &CONNECTS.to_string()])?,
        })
    }

    /// Waits for the end.
    pub fn finish(self) -> Result<Seen> {
        let mut sessions = Vec::new();
        for load in self.sessions {
            for line in lines(&load.output()?)? {
                sessions.push(session(&line)?);
            }
        }
        let answers = last(&self.answers.output()?, "longest_gap_ms")?;
        let connects = last(&self.connects.output()?, "connects")?;
        Ok(Seen {
            load: load_average(),
            gap_ms: float(&answers, "longest_gap_ms")?,
            gap_began_ms: whole(&answers, "gap_began_unix_ms")?,
            sessions,
            connects: whole(&connects, "connects")?,
            failed_connects: whole(&connects, "failed")?,
            slowest_connect_ms: float(&connects, "slowest_ms")?,
        })
    }
}

/// The machine's load average over a minute; 0 where /proc does not say.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

fn session(line: &Value) -> Result<Session> {
    let text = |field: &str| line[field].as_str().unwrap_or_default().to_string();
    Ok(Session {
        kind: text("kind"),
        ok: line["ok"].as_bool().with_context(|| format!("no ok in {line}"))?,
        error: text("error"),
        task: text("task"),
        gap_ms: float(line, "longest_gap_ms")?,
    })
}

fn lines(text: &str) -> Result<Vec<Value>> {
    let read = |line| serde_json::from_str(line).with_context(|| format!("line {line:?}"));
    text.lines().map(read).collect()
}

/// The last line that has the field: the summary after the lines of single failures.
fn last(text: &str, field: &str) -> Result<Value> {
    let found = lines(text)?.into_iter().rfind(|line| !line[field].is_null());
    found.with_context(|| format!("no {field} in {text:?}"))
}

fn float(line: &Value, field: &str) -> Result<f64> {
    line[field]
        .as_f64()
        .with_context(|| format!("no {field} in {line}"))
}

fn whole(line: &Value, field: &str) -> Result<u64> {
    line[field]
        .as_u64()
        .with_context(|| format!("no {field} in {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_found_behind_the_failures() {
        let text = "{\"n\":3,\"error\":\"timeout\"}\n{\"connects\":9,\"failed\":1,\"slowest_ms\":2.5}\n";
        let summary = last(text, "connects").unwrap();
        assert_eq!(whole(&summary, "failed").unwrap(), 1);
        assert_eq!(float(&summary, "slowest_ms").unwrap(), 2.5);
        assert!(last("{\"n\":3}\n", "connects").is_err());
    }

    #[test]
    fn a_session_without_an_outcome_is_an_error() {
        let line = serde_json::json!({"kind": "echo", "longest_gap_ms": 1});
        assert!(session(&line).is_err());
    }
}
