//! Sessions of the outside client through the address, shown as they begin and as they end.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, anyhow};
use skep_tests::session::{Answers, Sessions};
use skep_tests::swarm::TaskContainer;
use skep_tests::{Answered, Session, SessionKind};

use crate::demo::stage::Stage;

/// From one question to the address to the next.
const QUESTIONS: Duration = Duration::from_millis(5);

/// One session under way.
pub struct Running {
    title: &'static str,
    sessions: Sessions,
}

/// Opens one session; it has begun when this returns.
pub fn start(
    stage: &Stage<'_>,
    title: &'static str,
    kind: SessionKind,
    (address, port): (Ipv4Addr, u16),
    length: Duration,
) -> Result<Running> {
    let target = format!("{address}:{port}");
    stage.client_line(&format!(
        "skep-testbox session {target} --kind {} --seconds {} &",
        kind.name(),
        length.as_secs()
    ));
    let client = &stage.cluster.client;
    let sessions = client.start_sessions(&target, kind, 1, length, Duration::ZERO)?;
    Ok(Running { title, sessions })
}

impl Running {
    /// Waits for its end.
    pub fn finish(self) -> Result<(&'static str, Session)> {
        let session = self.sessions.finish()?.into_iter().next();
        Ok((
            self.title,
            session.ok_or_else(|| anyhow!("{} told nothing", self.title))?,
        ))
    }
}

/// Asks the address by UDP, every few ms.
pub fn start_answers(
    stage: &Stage<'_>,
    (address, port): (Ipv4Addr, u16),
    length: Duration,
) -> Result<Answers> {
    stage.client_line(&format!(
        "skep-testbox answers {address} --port {port} --interval-ms {} --seconds {} &",
        QUESTIONS.as_millis(),
        length.as_secs()
    ));
    let client = &stage.cluster.client;
    client.start_answers(&address.to_string(), port, QUESTIONS, length)
}

pub fn show_header() {
    println!(
        "\n{:<12}{:<18}{:>9}{:>13}{:>13}  outcome",
        "session", "served by", "answers", "bytes", "longest gap"
    );
}

pub fn show(title: &str, session: &Session, tasks: &[TaskContainer], killed_ms: u128) {
    let task = tasks.iter().find(|task| task.hostname() == session.task);
    let task = task.map_or_else(
        || session.task.clone(),
        |task| format!("{} on node{}", task.short_name(), task.node),
    );
    // An idle session is one long gap: that it says nothing is its nature.
    let gap = match session.kind {
        SessionKind::Idle => "-".to_string(),
        _ => format!("{:.2} s", session.longest_gap_ms as f64 / 1000.0),
    };
    let outcome = if session.ok {
        "went on".to_string()
    } else {
        let after = session.ended_unix_ms.saturating_sub(killed_ms);
        format!("{} {:.2} s after the kill", session.error, after as f64 / 1000.0)
    };
    println!(
        "{title:<12}{task:<18}{:>9}{:>13}{gap:>13}  {outcome}",
        session.exchanges, session.bytes
    );
}

pub fn show_answers(answered: &Answered) {
    println!(
        "the address itself: {} of {} questions were answered, one every {} ms; longest gap {:.3} s",
        answered.answered,
        answered.asked,
        QUESTIONS.as_millis(),
        answered.longest_gap_ms as f64 / 1000.0
    );
}
