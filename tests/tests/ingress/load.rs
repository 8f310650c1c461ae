//! Sessions of all kinds through an address, and the verdict on them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use skep_tests::session::Sessions;
use skep_tests::swarm::TaskContainer;
use skep_tests::{Session, SessionKind};

use super::stage::Stage;

/// Longer than any test keeps them: it ends them itself.
const LENGTH: Duration = Duration::from_secs(3600);

/// A living session never waits longer. Far from what is expected, which is about a second.
const NEVER_MS: u64 = 10_000;

/// A session whose task died has ended by then. Far from what is expected as well.
const ENDED_MS: u128 = 10_000;

/// Sessions under way.
pub struct Crowd(Vec<Sessions>);

impl Crowd {
    /// How many of each kind; those that speak pause for `interval` between an answer and the next question.
    pub fn start(stage: &Stage, target: &str, kinds: &[(SessionKind, usize, u64)]) -> Result<Self> {
        let start = |(kind, count, interval_ms): &(SessionKind, usize, u64)| {
            let interval = Duration::from_millis(*interval_ms);
            stage
                .cluster
                .client
                .start_sessions(target, *kind, *count, LENGTH, interval)
        };
        kinds.iter().map(start).collect::<Result<_>>().map(Self)
    }

    /// All kinds, in the numbers that the swarm is to carry.
    pub fn of_all_kinds(stage: &Stage, target: &str) -> Result<Self> {
        let kinds = [
            (SessionKind::Idle, 200, 0),
            (SessionKind::Stream, 20, 0),
            (SessionKind::Udp, 10, 10),
            (SessionKind::Echo, 100, 0),
        ];
        Self::start(stage, target, &kinds)
    }

    /// Ends them with a last sign of life each; how they fared.
    pub fn stop(self) -> Result<Vec<Session>> {
        self.0.iter().try_for_each(Sessions::end)?;
        let all: Result<Vec<Vec<Session>>> = self.0.into_iter().map(Sessions::finish).collect();
        Ok(all?.concat())
    }
}

/// Host names of the tasks on these nodes.
pub fn hosts_on(tasks: &[TaskContainer], nodes: &[usize]) -> BTreeSet<String> {
    let on = tasks.iter().filter(|task| nodes.contains(&task.node));
    on.map(|task| task.hostname().to_string()).collect()
}

/// Every session whose task lives must have lived; those whose task was on a killed node must have ended by a reset.
pub fn judge(sessions: &[Session], killed_ms: u128, dead: &BTreeSet<String>) -> Result<()> {
    for kind in [
        SessionKind::Echo,
        SessionKind::Idle,
        SessionKind::Stream,
        SessionKind::Udp,
    ] {
        let of_kind = sessions.iter().filter(|session| session.kind == kind);
        let (ended, living): (Vec<&Session>, Vec<&Session>) =
            of_kind.partition(|session| dead.contains(&session.task));
        if living.is_empty() && ended.is_empty() {
            continue;
        }
        let mut gaps: Vec<u64> = living.iter().map(|session| session.longest_gap_ms).collect();
        gaps.sort_unstable();
        println!(
            "    {:<6} {:>4} living: longest gap p50 {} max {} ms; {} of dead tasks",
            kind.name(),
            living.len(),
            gaps.get(gaps.len() / 2).unwrap_or(&0),
            gaps.last().unwrap_or(&0),
            ended.len()
        );
        lived(&living)?;
        ended_at_once(&ended, kind, killed_ms)?;
    }
    Ok(())
}

/// None was lost, or stood still for long.
pub fn lived(sessions: &[&Session]) -> Result<()> {
    let lost: Vec<&&Session> = sessions.iter().filter(|session| !session.ok).collect();
    ensure!(
        lost.is_empty(),
        "{} of {} sessions were lost, such as {:?}",
        lost.len(),
        sessions.len(),
        lost[0]
    );
    for session in sessions {
        ensure!(session.longest_gap_ms < NEVER_MS, "{session:?}");
        ensure!(session.changed == 0, "another task answered: {session:?}");
    }
    Ok(())
}

fn ended_at_once(sessions: &[&Session], kind: SessionKind, killed_ms: u128) -> Result<()> {
    for session in sessions {
        match kind {
            // It speaks all the time, so it learns of it.
            SessionKind::Echo => {
                ensure!(session.error == "reset", "not ended by a reset: {session:?}");
                ensure!(session.ended_unix_ms < killed_ms + ENDED_MS, "{session:?}");
            }
            // It speaks once, at the end.
            SessionKind::Idle => ensure!(session.error == "reset", "not ended by a reset: {session:?}"),
            // It never speaks, so nobody can tell it.
            SessionKind::Stream => ensure!(!session.ok, "{session:?}"),
            // The next task answers.
            SessionKind::Udp => ensure!(session.ok && session.changed > 0, "{session:?}"),
        }
    }
    Ok(())
}
