//! Which silent peers are hosts whose kernel still answers: their agent alone is away, killed or being replaced.
//!
//! A datagram to a port that nobody has is answered by the host's kernel (ICMP port unreachable). A host that is being taken
//! down answers so for a moment as well, so it takes some refusals in a row to be believed for longer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Linux answers six times at the pace of the knocks, then once a second (`icmp_ratelimit`). As many as this are followed
/// more closely.
const FIRST: u32 = 4;
const BELIEVED_FIRST: Duration = Duration::from_millis(250);
const BELIEVED: Duration = Duration::from_millis(1500);
/// Refusals further apart belong to different silences.
const BREAK: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub struct Hosts {
    refusals: BTreeMap<u32, Refusals>,
    /// Marked peers that were told to be up.
    told: BTreeSet<u32>,
}

#[derive(Debug, Default)]
struct Refusals {
    count: u32,
    last: Duration,
    up_until: Duration,
}

impl Hosts {
    /// The host of a peer refused a datagram.
    pub fn refused(&mut self, peer: u32, now: Duration) {
        let refusals = self.refusals.entry(peer).or_default();
        if now.saturating_sub(refusals.last) > BREAK {
            refusals.count = 0;
        }
        refusals.count = refusals.count.saturating_add(1);
        refusals.last = now;
        let believed = if refusals.count < FIRST {
            BELIEVED_FIRST
        } else {
            BELIEVED
        };
        refusals.up_until = now + believed;
    }

    fn is_up(&self, peer: u32, now: Duration) -> bool {
        self.refusals
            .get(&peer)
            .is_some_and(|refusals| now < refusals.up_until)
    }

    /// A peer is marked: whether its host is up.
    pub fn mark(&mut self, peer: u32, now: Duration) -> bool {
        let up = self.is_up(peer, now);
        if up {
            self.told.insert(peer);
        }
        up
    }

    /// Of the peers that are marked: whether their host is up, where that has changed.
    pub fn changes(&mut self, alive: &BTreeMap<u32, bool>, now: Duration) -> Vec<(u32, bool)> {
        self.refusals.retain(|peer, _| alive.contains_key(peer));
        self.told.retain(|peer| alive.get(peer) == Some(&false));
        let mut changes = Vec::new();
        for (&peer, _) in alive.iter().filter(|(_, alive)| !**alive) {
            let up = self.is_up(peer, now);
            if up == self.told.contains(&peer) {
                continue;
            }
            if up {
                self.told.insert(peer);
            } else {
                self.told.remove(&peer);
            }
            changes.push((peer, up));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKED: [(u32, bool); 2] = [(1, true), (2, false)];

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(10_000 + ms)
    }

    #[test]
    fn an_agent_that_is_away_is_told_from_a_host_that_is() {
        let marked = BTreeMap::from(MARKED);
        let mut hosts = Hosts::default();
        for at in [0, 100, 200, 300] {
            hosts.refused(2, ms(at));
        }
        assert_eq!(hosts.changes(&marked, ms(400)), [(2, true)]);
        assert_eq!(hosts.changes(&marked, ms(500)), [], "once");
        for at in [1300, 2300, 3300] {
            hosts.refused(2, ms(at));
            assert_eq!(hosts.changes(&marked, ms(at + 999)), []);
        }
        assert_eq!(hosts.changes(&marked, ms(4801)), [(2, false)]);
    }

    #[test]
    fn a_host_that_goes_down_is_not_taken_for_up_for_long() {
        let marked = BTreeMap::from(MARKED);
        let mut hosts = Hosts::default();
        for at in [0, 100] {
            hosts.refused(2, ms(at));
        }
        assert_eq!(hosts.changes(&marked, ms(351)), []);
    }

    #[test]
    fn each_mark_begins_anew() {
        let marked = BTreeMap::from(MARKED);
        let mut hosts = Hosts::default();
        for at in [0, 100, 200, 300] {
            hosts.refused(2, ms(at));
        }
        assert!(hosts.mark(2, ms(400)));
        assert_eq!(hosts.changes(&marked, ms(400)), [], "the mark has told");
        assert_eq!(hosts.changes(&BTreeMap::from([(2, true)]), ms(500)), []);
        assert!(!hosts.mark(2, ms(4000)));
        assert_eq!(hosts.changes(&marked, ms(4000)), []);
    }
}
