//! What the outside client sees of an address while its holder dies: the same for all who are measured.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use skep_tests::session::{Answers, Connects, Sessions};
use skep_tests::{Answered, Client, Connected, Session, SessionKind};

/// From one question to the address to the next.
const QUESTIONS: Duration = Duration::from_millis(2);
/// Kind, how many, and the pause between two exchanges of one.
const SESSIONS: [(SessionKind, usize, Duration); 4] = [
    (SessionKind::Echo, 4, Duration::from_millis(5)),
    (SessionKind::Idle, 20, Duration::ZERO),
    (SessionKind::Stream, 4, Duration::ZERO),
    (SessionKind::Udp, 4, Duration::from_millis(5)),
];
/// New connections a second.
const CONNECTS: u32 = 50;

/// Questions, sessions and new connections under way.
pub struct Watch {
    answers: Answers,
    sessions: Vec<Sessions>,
    connects: Connects,
}

/// What they saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The machine's load average over a minute, at the end.
    pub load: f64,
    pub answered: Answered,
    pub connected: Connected,
    pub sessions: Vec<Session>,
}

impl Watch {
    /// Starts everything; all sessions are open when it returns.
    pub fn start(client: &Client, address: Ipv4Addr, port: u16, length: Duration) -> Result<Self> {
        let target = format!("{address}:{port}");
        let sessions = SESSIONS
            .iter()
            .map(|(kind, count, pause)| client.start_sessions(&target, *kind, *count, length, *pause))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            answers: client.start_answers(&address.to_string(), port, QUESTIONS, length)?,
            sessions,
            connects: client.start_connects(&target, CONNECTS, length)?,
        })
    }

    /// Waits for the end.
    pub fn finish(self) -> Result<Seen> {
        let mut sessions = Vec::new();
        for running in self.sessions {
            sessions.extend(running.finish()?);
        }
        Ok(Seen {
            load: load_average()?,
            answered: self.answers.finish()?,
            connected: self.connects.finish()?,
            sessions,
        })
    }
}

impl Seen {
    /// The longest pause of a session that speaks all the time and lives.
    pub fn longest_stall_ms(&self) -> Option<u64> {
        let living = self
            .sessions
            .iter()
            .filter(|session| session.ok && session.kind != SessionKind::Idle);
        living.map(|session| session.longest_gap_ms).max()
    }
}

/// The machine's load average over a minute.
pub fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let first = text.split_whitespace().next().unwrap_or_default();
    first
        .parse()
        .with_context(|| format!("/proc/loadavg says {text:?}"))
}
