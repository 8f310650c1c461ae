//! Marks of the failure detector and changes of holders, as the agents' logs tell them.

use std::fs;

use anyhow::{Context, Result};
use skep_tests::{Cluster, Node};

/// What the agent logs when its opinion about a peer changes.
const LINE: &str = "peer mark changed";

/// What it logs when it learns of another holder.
const HOLDER: &str = "holder of an ingress address";

/// A node's opinion about another one changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub at_ms: u128,
    /// The index of the node that it is about.
    pub about: u32,
    pub alive: bool,
}

/// All of a node's marks, from its agent's first start on.
pub fn of(node: &Node) -> Result<Vec<Mark>> {
    Ok(parse(&log(node)?))
}

fn log(node: &Node) -> Result<String> {
    let path = node.log("agent");
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn parse(log: &str) -> Vec<Mark> {
    let lines = log.lines().filter(|line| line.contains(LINE));
    lines.filter_map(mark).collect()
}

fn mark(line: &str) -> Option<Mark> {
    Some(Mark {
        at_ms: at_ms(line)?,
        about: field(line, "node=")?.parse().ok()?,
        alive: field(line, "alive=")?.parse().ok()?,
    })
}

fn at_ms(line: &str) -> Option<u128> {
    let at: jiff::Timestamp = line.split_whitespace().next()?.parse().ok()?;
    u128::try_from(at.as_millisecond()).ok()
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(name))
}

/// When each holder of an address became known, and its index.
fn holders(log: &str) -> Vec<(u128, u32)> {
    let holder = |line: &str| {
        let index = field(line, "holder=")?.strip_prefix("Some(")?.strip_suffix(')')?;
        Some((at_ms(line)?, index.parse().ok()?))
    };
    let lines = log.lines().filter(|line| line.contains(HOLDER));
    lines.filter_map(holder).collect()
}

/// Time from `killed_ms` until the first of the living nodes knew another holder than the dead one; None while none does.
pub fn taken_over_ms(cluster: &Cluster, dead: u32, killed_ms: u128) -> Result<Option<f64>> {
    let mut first = None;
    for node in cluster.nodes.iter().filter(|node| node.is_alive()) {
        let known = holders(&log(node)?);
        let mut known = known
            .iter()
            .filter(|(at_ms, holder)| *at_ms >= killed_ms && *holder != dead);
        let own = known.next().map(|(at_ms, _)| at_ms - killed_ms);
        first = first.into_iter().chain(own).min();
    }
    Ok(first.map(|ms| ms as f64))
}

/// Time from `killed_ms` until the last of the living nodes had marked the dead one; None while one has not.
pub fn detection_ms(cluster: &Cluster, dead: u32, killed_ms: u128) -> Result<Option<f64>> {
    let mut last = 0;
    for node in cluster.nodes.iter().filter(|node| node.is_alive()) {
        let marks = of(node)?;
        let first = marks
            .iter()
            .find(|mark| !mark.alive && mark.about == dead && mark.at_ms >= killed_ms);
        match first {
            Some(mark) => last = last.max(mark.at_ms - killed_ms),
            None => return Ok(None),
        }
    }
    Ok(Some(last as f64))
}

/// Marks since `begin_ms` of nodes that were alive: all but those of `dead`, by living nodes.
pub fn wrong(cluster: &Cluster, dead: Option<u32>, begin_ms: u128) -> Result<usize> {
    let mut count = 0;
    for node in cluster.nodes.iter().filter(|node| node.is_alive()) {
        let marks = of(node)?;
        let wrong = marks
            .iter()
            .filter(|mark| !mark.alive && mark.at_ms >= begin_ms && Some(mark.about) != dead);
        count += wrong.count();
    }
    Ok(count)
}

/// No living node has a mark left.
pub fn none_left(cluster: &Cluster) -> Result<bool> {
    for node in cluster.nodes.iter().filter(|node| node.is_alive()) {
        let marks = of(node)?;
        let last = |about| marks.iter().rfind(|mark| mark.about == about);
        if marks
            .iter()
            .any(|mark| last(mark.about).is_some_and(|last| !last.alive))
        {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_from_the_log_and_nothing_else_is() {
        let log = "2026-11-24T10:00:00.500000Z  INFO skep_agent::probe::io::socket: peer mark changed node=3 alive=false\n\
                   2026-11-24T10:00:01.000000Z  INFO skep_agent::network::keeper: node marked node=3 alive=false\n\
                   not a line of a log\n";
        let marks = parse(log);
        assert_eq!(marks.len(), 1);
        assert_eq!((marks[0].about, marks[0].alive), (3, false));
        assert_eq!(marks[0].at_ms % 1000, 500);
    }

    #[test]
    fn holders_are_read_from_the_log_and_nobody_is_none() {
        let log = "2026-11-24T10:00:00.500000Z  INFO p: holder of an ingress address address=1 holder=None reason=x\n\
                   2026-11-24T10:00:00.900000Z  INFO p: holder of an ingress address address=1 holder=Some(2) reason=x\n";
        let known = holders(log);
        assert_eq!((known.len(), known[0].1), (1, 2));
    }
}
