//! Nodes that are cut off, and come back: the address has one holder at most.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_tests::suite::Test;
use skep_tests::watcher::{Heard, longest_overlap_ms};
use skep_tests::{Node, until};

use super::PATIENCE;
use super::holder::LEASE_MS;
use super::stage::{ADDRESS, Stage, after, entry};

pub const TESTS: &[Test<Stage>] = &[
    (
        "a_holder_that_hears_nobody_gives_up_by_itself",
        a_holder_that_hears_nobody_gives_up_by_itself,
    ),
    (
        "a_holder_that_was_cut_off_returns_without_a_second_answer",
        a_holder_that_was_cut_off_returns_without_a_second_answer,
    ),
    (
        "a_holder_whose_agent_stands_still_falls_silent",
        a_holder_whose_agent_stands_still_falls_silent,
    ),
];

/// The last answer of a node that no longer should give any, far from what is expected (a lease).
const NEVER_MS: u128 = 3_000;

pub fn last_of(heard: &[Heard], node: &Node) -> Option<u128> {
    let of_node = heard
        .iter()
        .filter(|claim| claim.node().ok() == Some(node.number()));
    of_node.map(|claim| claim.unix_ms).max()
}

fn first_other(heard: &[Heard], node: &Node, since: u128) -> Option<u128> {
    let others = heard
        .iter()
        .filter(|claim| claim.unix_ms >= since && claim.node().is_ok_and(|number| number != node.number()));
    others.map(|claim| claim.unix_ms).min()
}

/// Its probes are lost in both directions, but ARP still reaches it: were it not silent, it would be heard.
fn a_holder_that_hears_nobody_gives_up_by_itself(stage: &Stage) -> Result<()> {
    let holder = stage.node(4);
    stage.moved(ADDRESS, holder)?;
    let rules = "add table inet deaf; \
        add chain inet deaf in { type filter hook input priority -300; udp dport 7946 drop; }; \
        add chain inet deaf out { type filter hook output priority -300; udp dport 7946 drop; }";
    let watching = stage.watcher.watch(&[ADDRESS], Duration::from_secs(6))?;
    std::thread::sleep(Duration::from_millis(500));
    let cut_ms = skep_tests::client::unix_ms();
    holder.exec(&["nft", rules])?.ok()?;
    let (other, _) = until("another holder", PATIENCE, || {
        let seen = stage.holder(stage.other_than(&[4])?, ADDRESS)?;
        Ok((seen.number() != 4).then_some(seen))
    })?;
    std::thread::sleep(Duration::from_millis(1500));
    let alone = entry(holder, ADDRESS)?;
    ensure!(alone.holder.as_deref() != Some(holder.name()), "{alone:?}");
    let healed_ms = skep_tests::client::unix_ms();
    holder.exec(&["nft", "delete table inet deaf"])?.ok()?;
    let heard = watching.finish()?;
    let last = heard
        .iter()
        .filter(|claim| claim.unix_ms < healed_ms && claim.node().ok() == Some(4))
        .map(|claim| claim.unix_ms)
        .max()
        .context("the holder was never heard")?;
    let first = first_other(&heard, holder, cut_ms).context("no other node was heard")?;
    println!(
        "    silent {} after the cut, {} answers from {}; the longest overlap {} ms",
        after(last, cut_ms),
        other.name(),
        after(first, cut_ms),
        longest_overlap_ms(&heard)
    );
    ensure!(last < cut_ms + NEVER_MS, "it went on answering: {heard:?}");
    ensure!(longest_overlap_ms(&heard) < LEASE_MS, "two holders: {heard:?}");
    stage.healthy()
}

fn a_holder_that_was_cut_off_returns_without_a_second_answer(stage: &Stage) -> Result<()> {
    let holder = stage.node(5);
    stage.moved(ADDRESS, holder)?;
    for behind in [false, true] {
        let holder = stage.holder(stage.node(1), ADDRESS)?;
        let asked = stage.other_than(&[holder.number()])?;
        let watching = stage.watcher.watch(&[ADDRESS], Duration::from_secs(6))?;
        if behind {
            holder.cut_behind()?;
        } else {
            holder.cut()?;
        }
        let (_, took) = until("another holder", PATIENCE, || {
            let seen = stage.holder(asked, ADDRESS)?;
            Ok((seen.number() != holder.number()).then_some(()))
        })?;
        std::thread::sleep(Duration::from_secs(1));
        if behind {
            holder.heal_behind()?;
        } else {
            holder.heal()?;
        }
        let heard = watching.finish()?;
        let overlap = longest_overlap_ms(&heard);
        println!(
            "    {} cut {}: another holder is seen after {took:.1?}, the longest overlap {overlap} ms",
            holder.name(),
            if behind { "behind its port" } else { "at its port" },
        );
        ensure!(overlap < LEASE_MS, "two holders: {heard:?}");
        stage.healthy()?;
    }
    Ok(())
}

/// The kernel's dead man's switch: nobody tells it to stop.
fn a_holder_whose_agent_stands_still_falls_silent(stage: &Stage) -> Result<()> {
    let holder = stage.node(4);
    stage.moved(ADDRESS, holder)?;
    let watching = stage.watcher.watch(&[ADDRESS], Duration::from_secs(5))?;
    std::thread::sleep(Duration::from_millis(500));
    let stopped_ms = skep_tests::client::unix_ms();
    holder.pause_agent(Duration::from_secs(3))?;
    let heard = watching.finish()?;
    let last = last_of(&heard, holder).context("the holder was never heard")?;
    let first = first_other(&heard, holder, stopped_ms).context("no other node was heard")?;
    println!(
        "    silent {} after the agent stood still, another answers after {}",
        after(last, stopped_ms),
        after(first, stopped_ms)
    );
    ensure!(longest_overlap_ms(&heard) < LEASE_MS, "two holders: {heard:?}");
    stage.healthy()
}
