//! Planned hand-overs: nobody notices.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use skep_tests::SessionKind;
use skep_tests::suite::Test;
use skep_tests::{Node, until};

use super::PATIENCE;
use super::holder::ask;
use super::load::{Crowd, lived};
use super::stage::{ADDRESS, PORT, Stage, entry};

pub const TESTS: &[Test<Stage>] = &[
    ("a_move_loses_nothing", a_move_loses_nothing),
    (
        "an_agent_that_is_stopped_hands_over",
        an_agent_that_is_stopped_hands_over,
    ),
    (
        "a_node_that_is_drained_hands_over",
        a_node_that_is_drained_hands_over,
    ),
];

/// Every question must be answered while `change` takes the address from its holder; where it is then.
fn unnoticed<'a>(
    stage: &'a Stage,
    from: &Node,
    port: u16,
    change: impl FnOnce() -> Result<()>,
) -> Result<&'a Node> {
    let kinds = [
        (SessionKind::Echo, 20, 5),
        (SessionKind::Idle, 20, 0),
        (SessionKind::Stream, 5, 0),
        (SessionKind::Udp, 5, 10),
    ];
    let crowd = Crowd::start(stage, &format!("{ADDRESS}:{port}"), &kinds)?;
    let answers = ask(stage, ADDRESS, port)?;
    std::thread::sleep(Duration::from_millis(500));
    change()?;
    let asked = stage.other_than(&[from.number()])?;
    let (new, took) = until("another holder", PATIENCE, || {
        let holder = stage.holder(asked, ADDRESS)?;
        Ok((holder.number() != from.number()).then_some(holder))
    })?;
    let answers = answers.finish()?;
    println!(
        "    {} to {} seen {took:.1?} later ({}): longest silence {} ms, {} of {} answered",
        from.name(),
        new.name(),
        entry(asked, ADDRESS)?.reason.unwrap_or_default(),
        answers.longest_gap_ms,
        answers.answered,
        answers.asked
    );
    let sessions = crowd.stop()?;
    let slowest = sessions.iter().map(|session| session.longest_gap_ms).max();
    println!("    the longest gap of a session: {} ms", slowest.unwrap_or(0));
    lived(&sessions.iter().collect::<Vec<_>>())?;
    ensure!(answers.answered == answers.asked, "{answers:?}");
    Ok(new)
}

fn a_move_loses_nothing(stage: &Stage) -> Result<()> {
    let from = stage.holder(stage.node(1), ADDRESS)?;
    let to = stage.other_than(&[from.number()])?;
    let manager = stage.leader()?;
    let change = || manager.skep(&["ingress", "move", ADDRESS, to.name()]).map(drop);
    let new = unnoticed(stage, from, PORT, change)?;
    ensure!(new.number() == to.number(), "{} holds it", new.name());
    let now = entry(to, ADDRESS)?;
    let reason = format!("handed over by {}", from.name());
    ensure!(now.reason == Some(reason), "{now:?}");
    Ok(())
}

/// Its own tasks go on serving meanwhile, whichever node a client comes in through.
fn an_agent_that_is_stopped_hands_over(stage: &Stage) -> Result<()> {
    let from = stage.node(4);
    stage.create("staying", 5, 8083, &["--replicas-max-per-node", "1"])?;
    stage.moved(ADDRESS, from)?;
    stage.answers(ADDRESS, 8083)?;
    unnoticed(stage, from, 8083, || from.stop_agent(Signal::SIGTERM))?;
    from.start_agent()?;
    stage.healthy()?;
    stage.remove(&["staying"])
}

/// Its tasks move as well, so what is asked is a service that runs elsewhere.
fn a_node_that_is_drained_hands_over(stage: &Stage) -> Result<()> {
    let from = stage.node(5);
    stage.create("staying", 2, 8083, &["--constraint", "node.hostname!=node5"])?;
    stage.moved(ADDRESS, from)?;
    stage.answers(ADDRESS, 8083)?;
    let manager = stage.leader()?;
    let update = |word: &str| manager.docker_ok(&["node", "update", "--availability", word, "node5"]);
    unnoticed(stage, from, 8083, || update("drain").map(drop))?;
    update("active")?;
    stage.remove(&["staying"])
}
