//! Who is alive, from the probes heard and their absence. Times are durations since any fixed moment.
//!
//! A peer is *heard* when it acknowledges another probe that this node sent a moment ago: a round trip, so a link
//! that works in one direction only counts as broken on both sides, and a recorded probe proves nothing.
//! A peer that was not heard for [`MISSED_AFTER`] is *missed*; nodes tell each other whom they miss. It is
//! *marked* (not alive) when this node and most of the observers it hears miss it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::message::{MAX_MISSED, Message};

/// From one round of probes to the next.
pub const INTERVAL: Duration = Duration::from_millis(200);
/// Three probes lost in a row, and a little.
pub const MISSED_AFTER: Duration = Duration::from_millis(700);
/// How old a probe may be for its acknowledgement to prove anything.
const PROOF_AGE: Duration = Duration::from_secs(1);
/// A gap this long between two calls means that this node itself did not run (stopped, starved): what it
/// did not hear meanwhile says nothing about others.
const STARVED_AFTER: Duration = Duration::from_millis(400);

/// The opinions of one node.
#[derive(Debug)]
pub struct Judge {
    self_index: u32,
    boot: u64,
    sequence: u64,
    /// When each of the latest rounds was sent.
    sent: VecDeque<(u64, Duration)>,
    last_call: Duration,
    peers: BTreeMap<u32, PeerState>,
}

#[derive(Debug)]
struct PeerState {
    /// The latest probe received: what the next one to this peer acknowledges.
    latest: Option<Latest>,
    /// The highest of this node's sequences that it has acknowledged.
    acknowledged: u64,
    /// When it was last heard, or the clock was last restarted.
    heard: Duration,
    missed: bool,
    alive: bool,
    /// Whom it misses, by its latest proven probe; None before the first.
    report: Option<BTreeSet<u32>>,
    rtt: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Latest {
    boot: u64,
    sequence: u64,
    arrived: Duration,
}

impl Judge {
    /// `boot` is a number drawn at start, not 0.
    pub fn new(self_index: u32, boot: u64, now: Duration) -> Self {
        assert_ne!(boot, 0, "0 means that nothing was heard");
        Self {
            self_index,
            boot,
            sequence: 0,
            sent: VecDeque::new(),
            last_call: now,
            peers: BTreeMap::new(),
        }
    }

    /// Takes over the set of peers. New ones are alive until they have been missed; this node is no peer.
    pub fn set_peers(&mut self, indexes: &BTreeSet<u32>, now: Duration) {
        self.peers.retain(|index, _| indexes.contains(index));
        for &index in indexes {
            if index == self.self_index {
                continue;
            }
            self.peers.entry(index).or_insert(PeerState {
                latest: None,
                acknowledged: 0,
                heard: now,
                missed: false,
                alive: true,
                report: None,
                rtt: None,
            });
        }
    }

    /// The next round of probes, one for each peer.
    pub fn probes(&mut self, now: Duration) -> Vec<Message> {
        self.sequence += 1;
        self.sent.push_back((self.sequence, now));
        while self
            .sent
            .front()
            .is_some_and(|(_, at)| now.saturating_sub(*at) > PROOF_AGE)
        {
            self.sent.pop_front();
        }
        let missed: Vec<u32> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.missed)
            .map(|(index, _)| *index)
            .collect();
        let probe = |(&receiver, peer): (&u32, &PeerState)| {
            let hold = peer
                .latest
                .map_or(Duration::ZERO, |latest| now.saturating_sub(latest.arrived));
            Message {
                sender: self.self_index,
                receiver,
                boot: self.boot,
                sequence: self.sequence,
                ack_boot: peer.latest.map_or(0, |latest| latest.boot),
                ack_sequence: peer.latest.map_or(0, |latest| latest.sequence),
                hold_us: u32::try_from(hold.as_micros()).unwrap_or(u32::MAX),
                missed: missed.iter().copied().take(MAX_MISSED).collect(),
            }
        };
        self.peers.iter().map(probe).collect()
    }

    /// Takes in a probe that was sealed with the swarm's key. True when it proves that its sender is
    /// alive and hears this node.
    pub fn receive(&mut self, message: &Message, now: Duration) -> bool {
        if message.receiver != self.self_index || message.boot == 0 {
            return false;
        }
        let sent_at = (message.ack_boot == self.boot)
            .then(|| {
                self.sent
                    .iter()
                    .find(|(sequence, _)| *sequence == message.ack_sequence)
            })
            .flatten()
            .map(|(_, at)| *at)
            .filter(|at| now.saturating_sub(*at) <= PROOF_AGE);
        let Some(peer) = self.peers.get_mut(&message.sender) else {
            return false;
        };
        match peer.latest {
            // Old, doubled, or recorded.
            Some(latest) if latest.boot == message.boot && message.sequence <= latest.sequence => {
                return false;
            }
            // The peer's agent was restarted, or this is a probe recorded in an earlier life of it. Proof
            // tells which; without proof it is acknowledged (else two nodes that both started anew would
            // wait for each other) only while the life known so far is missed.
            Some(latest)
                if latest.boot != message.boot
                    && sent_at.is_none()
                    && peer.report.is_some()
                    && !peer.missed =>
            {
                return false;
            }
            _ => {}
        }
        peer.latest = Some(Latest {
            boot: message.boot,
            sequence: message.sequence,
            arrived: now,
        });
        let Some(sent_at) = sent_at else {
            return false;
        };
        peer.report = Some(message.missed.iter().copied().collect());
        // Acknowledged before: the peer has sent twice, but need not have received anything since.
        if message.ack_sequence <= peer.acknowledged {
            return false;
        }
        peer.acknowledged = message.ack_sequence;
        peer.heard = now;
        peer.missed = false;
        peer.alive = true;
        let hold = Duration::from_micros(u64::from(message.hold_us));
        peer.rtt = Some(now.saturating_sub(sent_at).saturating_sub(hold));
        true
    }

    /// Judges every peer by what is known now. True when one more is missed than at the last call, which
    /// the others should hear at once.
    pub fn judge(&mut self, now: Duration) -> bool {
        let starved = now.saturating_sub(self.last_call) > STARVED_AFTER;
        self.last_call = now;
        let mut changed = false;
        for peer in self.peers.values_mut() {
            if starved && !peer.missed {
                peer.heard = now;
            }
            let missed = now.saturating_sub(peer.heard) > MISSED_AFTER;
            changed |= missed && !peer.missed;
            peer.missed = missed;
        }
        let verdicts: Vec<(u32, bool)> = self
            .peers
            .keys()
            .filter_map(|index| Some((*index, self.verdict(*index)?)))
            .collect();
        for (index, alive) in verdicts {
            if let Some(peer) = self.peers.get_mut(&index) {
                peer.alive = alive;
            }
        }
        changed
    }

    /// Whether a peer is alive; None when nothing can be said and its mark stays as it is.
    fn verdict(&self, index: u32) -> Option<bool> {
        let peer = self.peers.get(&index)?;
        if !peer.missed {
            return Some(true);
        }
        let others = || {
            self.peers
                .iter()
                .filter(|(other, _)| **other != index)
                .map(|(_, other)| other)
        };
        // Two nodes left: there is nobody to ask.
        if others().all(|other| !other.alive) {
            return Some(false);
        }
        let observers = others()
            .filter(|other| !other.missed)
            .filter_map(|other| other.report.as_ref());
        let (mut heard, mut agreeing) = (0, 0);
        for report in observers {
            heard += 1;
            agreeing += usize::from(report.contains(&index));
        }
        // Nobody is heard: this node is the one that is cut off.
        (heard > 0).then_some(2 * agreeing <= heard)
    }

    /// The marks, by node index.
    pub fn alive(&self) -> BTreeMap<u32, bool> {
        self.peers
            .iter()
            .map(|(index, peer)| (*index, peer.alive))
            .collect()
    }

    /// The latest round-trip times of the peers that have answered, by node index.
    pub fn rtt(&self) -> BTreeMap<u32, Duration> {
        self.peers
            .iter()
            .filter_map(|(index, peer)| Some((*index, peer.rtt?)))
            .collect()
    }
}

#[cfg(test)]
mod tests;
