//! Two nodes have no majority without each other: a rule decides who holds an address.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use skep_tests::suite::Test;
use skep_tests::watcher::Heard;
use skep_tests::{Node, client, until};

use super::PATIENCE;
use super::alone::last_of;
use super::stage::{ADDRESS, Stage, after, entry};

pub const TESTS: &[Test<Stage>] = &[
    ("both_nodes_agree_on_a_holder", both_nodes_agree_on_a_holder),
    (
        "a_node_without_its_gateway_gives_up",
        a_node_without_its_gateway_gives_up,
    ),
    (
        "parted_nodes_both_hold_until_they_meet",
        parted_nodes_both_hold_until_they_meet,
    ),
    (
        "the_node_that_is_left_takes_over",
        the_node_that_is_left_takes_over,
    ),
];

/// Both may answer for a lease after they meet; this is what must never be.
const NEVER_MS: u128 = 3_000;

fn both_nodes_agree_on_a_holder(stage: &Stage) -> Result<()> {
    stage
        .node(1)
        .skep(&["ingress", "address", "add", &format!("{ADDRESS}/24")])?;
    stage.healthy()
}

/// The other node of two.
fn other<'a>(stage: &'a Stage, node: &Node) -> &'a Node {
    stage.node(3 - node.number())
}

/// Waits until `node` itself sees `holder`.
fn sees(node: &Node, holder: Option<&str>) -> Result<()> {
    until(&format!("{} sees {holder:?}", node.name()), PATIENCE, || {
        let entry = entry(node, ADDRESS)?;
        if entry.holder.as_deref() == holder {
            return Ok(Some(()));
        }
        bail!("{entry:?}")
    })?;
    Ok(())
}

/// Its interface has a carrier, but nobody answers behind it.
fn a_node_without_its_gateway_gives_up(stage: &Stage) -> Result<()> {
    let holder = stage.holder(stage.node(1), ADDRESS)?;
    let other = other(stage, holder);
    let watching = stage.watcher.watch(&[ADDRESS], Duration::from_secs(8))?;
    let cut_ms = client::unix_ms();
    holder.cut_behind()?;
    sees(other, Some(other.name()))?;
    // It gave up: who holds it now it cannot know.
    until("the holder gives up", PATIENCE, || {
        Ok((entry(holder, ADDRESS)?.holder.as_deref() != Some(holder.name())).then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(1));
    holder.heal_behind()?;
    let heard = watching.finish()?;
    let first = heard
        .iter()
        .find(|claim| claim.unix_ms > cut_ms && claim.node().ok() == Some(other.number()));
    let first = first.with_context(|| format!("{} was not heard", other.name()))?;
    println!(
        "    {} answers {} after the cut",
        other.name(),
        after(first.unix_ms, cut_ms)
    );
    stage.healthy()
}

/// Both have the gateway, so clients on either side have a holder.
fn parted_nodes_both_hold_until_they_meet(stage: &Stage) -> Result<()> {
    let watching = stage.watcher.watch(&[ADDRESS], Duration::from_secs(10))?;
    for node in &stage.cluster.nodes {
        node.part(true)?;
    }
    for node in &stage.cluster.nodes {
        sees(node, Some(node.name()))?;
    }
    std::thread::sleep(Duration::from_secs(1));
    let met_ms = client::unix_ms();
    for node in &stage.cluster.nodes {
        node.part(false)?;
    }
    stage.healthy()?;
    let holder = stage.holder(stage.node(1), ADDRESS)?;
    let heard: Vec<Heard> = watching.finish()?;
    let yielded = last_of(&heard, other(stage, holder)).context("only one node ever held it")?;
    println!(
        "    the other node's last answer {} after they met",
        after(yielded, met_ms)
    );
    ensure!(yielded < met_ms + NEVER_MS, "both go on: {heard:?}");
    Ok(())
}

fn the_node_that_is_left_takes_over(stage: &Stage) -> Result<()> {
    let holder = stage.holder(stage.node(1), ADDRESS)?;
    let left = other(stage, holder);
    let watching = stage.watcher.watch(&[ADDRESS], Duration::from_secs(5))?;
    std::thread::sleep(Duration::from_millis(500));
    let killed_ms = holder.kill_now()?;
    sees(left, Some(left.name()))?;
    let heard = watching.finish()?;
    let first = heard
        .iter()
        .find(|claim| claim.unix_ms > killed_ms && claim.node().ok() == Some(left.number()));
    let first = first.with_context(|| format!("{} was not heard", left.name()))?;
    println!(
        "    {} answers {} after the kill",
        left.name(),
        after(first.unix_ms, killed_ms)
    );
    // And it keeps the address, without the other.
    std::thread::sleep(Duration::from_secs(1));
    sees(left, Some(left.name()))?;
    stage.revive()
}
