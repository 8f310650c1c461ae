//! Who is alive, from the datagrams heard and their absence. Times are durations since any fixed moment.
//!
//! A peer is *heard* when it acknowledges another datagram that this node sent a moment ago: a round trip, so a link
//! that works in one direction only counts as broken on both sides, and a recorded datagram proves nothing.
//! A peer that was not heard for longer than its [`Patience`] is *missed*; nodes tell each other whom they miss. It is
//! *marked* (not alive) when this node, if it probes it, and most of its observers that are heard from miss it.

pub mod observers;
pub mod patience;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::message::Envelope;
use observers::observers;
use patience::Patience;

/// From one round of probes to the next.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// How old a datagram may be for its acknowledgement to prove anything.
const PROOF_AGE: Duration = Duration::from_secs(1);
/// How old it may be for what is said beside it to be believed: nodes that do not probe each other speak once a second.
const BELIEF_AGE: Duration = Duration::from_secs(3);
/// A gap this long between two calls means that this node itself did not run (stopped, starved): what it
/// did not hear meanwhile says nothing about others.
const STARVED_AFTER: Duration = Duration::from_millis(250);
/// For so long counts what an observer said that is not probed; it repeats itself each second.
const REPORT_AGE: Duration = Duration::from_millis(2500);

/// The opinions of one node.
#[derive(Debug)]
pub struct Judge {
    self_index: u32,
    boot: u64,
    sequence: u64,
    /// When each of the latest datagrams was sent.
    sent: VecDeque<(u64, Duration)>,
    last_call: Duration,
    /// Something was heard that may change a mark.
    dirty: bool,
    next_verdicts: Duration,
    peers: BTreeMap<u32, PeerState>,
}

#[derive(Debug)]
struct PeerState {
    /// This node and the peer probe each other: one is an observer of the other.
    near: bool,
    observers: BTreeSet<u32>,
    /// The latest datagram received: what the next one to this peer acknowledges.
    latest: Option<Latest>,
    /// The highest of this node's sequences that it has acknowledged.
    acknowledged: u64,
    /// When it was last heard, or the clock was last restarted.
    heard: Duration,
    /// It was heard at `heard`, so that the time to the next one tells how regular it is.
    regular: bool,
    patience: Patience,
    missed: bool,
    alive: bool,
    /// Whom it misses, and when it said so; None before the first.
    report: Option<(BTreeSet<u32>, Duration)>,
    /// Since when it has answered without a break.
    answers_since: Option<Duration>,
    rtt: Option<Duration>,
    /// When a datagram went to it last.
    sent: Duration,
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
            dirty: false,
            next_verdicts: now,
            peers: BTreeMap::new(),
        }
    }

    /// Takes over the set of peers. New ones are alive until they have been missed; this node is no peer.
    pub fn set_peers(&mut self, indexes: &BTreeSet<u32>, now: Duration) {
        self.dirty = true;
        self.peers.retain(|index, _| indexes.contains(index));
        let mut nodes = indexes.clone();
        nodes.insert(self.self_index);
        let observers = observers(&nodes);
        let own = observers.get(&self.self_index).cloned().unwrap_or_default();
        for (index, observers) in observers {
            if index == self.self_index {
                continue;
            }
            let near = own.contains(&index) || observers.contains(&self.self_index);
            let peer = self.peers.entry(index).or_insert_with(|| PeerState::new(now));
            if near && !peer.near {
                peer.restart_clock(now);
            }
            peer.missed &= near;
            peer.near = near;
            peer.observers = observers;
        }
    }

    /// Whom this node probes.
    pub fn near(&self) -> impl Iterator<Item = u32> + '_ {
        self.peers
            .iter()
            .filter(|(_, peer)| peer.near)
            .map(|(index, _)| *index)
    }

    /// Every peer.
    pub fn peers(&self) -> impl Iterator<Item = u32> + '_ {
        self.peers.keys().copied()
    }

    /// Whom this node misses.
    pub fn missed(&self) -> BTreeSet<u32> {
        self.peers
            .iter()
            .filter(|(_, peer)| peer.missed)
            .map(|(index, _)| *index)
            .collect()
    }

    /// The envelope of the next datagram to a peer; None when it is none.
    pub fn envelope(&mut self, receiver: u32, now: Duration) -> Option<Envelope> {
        let peer = self.peers.get_mut(&receiver)?;
        peer.sent = now;
        self.sequence += 1;
        self.sent.push_back((self.sequence, now));
        while self
            .sent
            .front()
            .is_some_and(|(_, at)| now.saturating_sub(*at) > BELIEF_AGE)
        {
            self.sent.pop_front();
        }
        let hold = peer
            .latest
            .map_or(Duration::ZERO, |latest| now.saturating_sub(latest.arrived));
        Some(Envelope {
            sender: self.self_index,
            receiver,
            boot: self.boot,
            sequence: self.sequence,
            ack_boot: peer.latest.map_or(0, |latest| latest.boot),
            ack_sequence: peer.latest.map_or(0, |latest| latest.sequence),
            hold_us: u32::try_from(hold.as_micros()).unwrap_or(u32::MAX),
        })
    }

    /// When a datagram of this node was sent, if that is not too long ago.
    fn sent_at(&self, boot: u64, sequence: u64, now: Duration) -> Option<Duration> {
        if boot != self.boot {
            return None;
        }
        let at = self
            .sent
            .binary_search_by_key(&sequence, |(sent, _)| *sent)
            .ok()?;
        let (_, at) = self.sent.get(at)?;
        (now.saturating_sub(*at) <= BELIEF_AGE).then_some(*at)
    }

    /// Takes in the envelope of a datagram that was sealed with the swarm's key. True when it is new and its sender
    /// has heard this node a moment ago: then what it says may be believed.
    pub fn receive(&mut self, envelope: &Envelope, now: Duration) -> bool {
        self.notice_starvation(now);
        if envelope.receiver != self.self_index || envelope.boot == 0 {
            return false;
        }
        let sent_at = self.sent_at(envelope.ack_boot, envelope.ack_sequence, now);
        let Some(peer) = self.peers.get_mut(&envelope.sender) else {
            return false;
        };
        let restarted = peer.latest.is_some_and(|latest| latest.boot != envelope.boot);
        match peer.latest {
            // Old, doubled, or recorded.
            Some(latest) if !restarted && envelope.sequence <= latest.sequence => return false,
            // The peer's agent was restarted, or this was recorded in an earlier life of it. Proof tells which;
            // without proof it is acknowledged (else two nodes that both started anew would wait for each other)
            // only while the life known so far is missed.
            Some(_) if restarted && sent_at.is_none() && peer.report.is_some() && !peer.missed => {
                return false;
            }
            _ => {}
        }
        peer.latest = Some(Latest {
            boot: envelope.boot,
            sequence: envelope.sequence,
            arrived: now,
        });
        if restarted {
            peer.answers_since = None;
        }
        let Some(sent_at) = sent_at else {
            return false;
        };
        // Acknowledged before: the peer has sent twice, but need not have received anything since.
        let is_recent = now.saturating_sub(sent_at) <= PROOF_AGE;
        if envelope.ack_sequence > peer.acknowledged && is_recent {
            peer.acknowledged = envelope.ack_sequence;
            self.dirty |= peer.missed || !peer.alive;
            peer.is_heard(now);
            let hold = Duration::from_micros(u64::from(envelope.hold_us));
            peer.rtt = Some(now.saturating_sub(sent_at).saturating_sub(hold));
        }
        true
    }

    /// Whether an answer is due at once: the peer does not know this node's life, and nothing went to it just now.
    pub fn is_stranger(&self, envelope: &Envelope, now: Duration) -> bool {
        envelope.ack_boot != self.boot
            && self.peers.get(&envelope.sender).is_some_and(|peer| {
                peer.latest.is_some_and(|latest| latest.boot == envelope.boot)
                    && now.saturating_sub(peer.sent) >= INTERVAL / 4
            })
    }

    /// Takes in whom a peer misses, out of a datagram to be believed.
    pub fn report(&mut self, sender: u32, missed: &[u32], now: Duration) {
        if let Some(peer) = self.peers.get_mut(&sender) {
            let missed = missed.iter().copied().collect();
            self.dirty |= peer.report.as_ref().is_none_or(|(known, _)| *known != missed);
            peer.report = Some((missed, now));
        }
    }

    fn notice_starvation(&mut self, now: Duration) {
        if now.saturating_sub(self.last_call) > STARVED_AFTER {
            let peers = self.peers.values_mut().filter(|peer| !peer.missed);
            peers.for_each(|peer| peer.restart_clock(now));
        }
        self.last_call = now;
    }

    /// Judges every peer by what is known now. True when this node misses others than at the last call, which all
    /// should hear at once.
    pub fn judge(&mut self, now: Duration) -> bool {
        self.notice_starvation(now);
        let mut changed = false;
        for peer in self.peers.values_mut().filter(|peer| peer.near) {
            if !peer.missed && now >= peer.heard + peer.patience.limit() {
                peer.missed = true;
                peer.regular = false;
                peer.answers_since = None;
                changed = true;
            }
        }
        // Not at each datagram: it is work for each peer and observer. What was said grows old in time, too.
        if changed || self.dirty || now >= self.next_verdicts {
            self.dirty = false;
            self.next_verdicts = now + INTERVAL;
            self.mark(now);
        }
        changed
    }

    fn mark(&mut self, now: Duration) {
        let verdicts: Vec<(u32, bool)> = self
            .peers
            .keys()
            .filter_map(|index| Some((*index, self.verdict(*index, now)?)))
            .collect();
        for (index, alive) in verdicts {
            if let Some(peer) = self.peers.get_mut(&index) {
                // One mark may be the reason of another.
                self.dirty |= peer.alive != alive;
                peer.alive = alive;
                peer.answers_since = peer.answers_since.filter(|_| alive);
            }
        }
    }

    /// When [`Judge::judge`] may come to another result by the passing of time.
    pub fn next_change(&self) -> Option<Duration> {
        let waiting = self.peers.values().filter(|peer| peer.near && !peer.missed);
        waiting.map(|peer| peer.heard + peer.patience.limit()).min()
    }

    /// Whether a peer is alive; None when nothing can be said and its mark stays as it is.
    fn verdict(&self, index: u32, now: Duration) -> Option<bool> {
        let peer = self.peers.get(&index)?;
        if peer.near && !peer.missed {
            return Some(true);
        }
        // Two nodes left: there is nobody to ask.
        if peer.near && self.peers.iter().all(|(other, it)| *other == index || !it.alive) {
            return Some(false);
        }
        let (mut heard, mut agreeing) = (0, 0);
        for report in peer
            .observers
            .iter()
            .filter_map(|other| self.report_of(*other, now))
        {
            heard += 1;
            agreeing += usize::from(report.contains(&index));
        }
        // Nobody is heard: this node is the one that is cut off.
        (heard > 0).then_some(2 * agreeing <= heard)
    }

    fn report_of(&self, observer: u32, now: Duration) -> Option<&BTreeSet<u32>> {
        let peer = self.peers.get(&observer)?;
        let (report, at) = peer.report.as_ref()?;
        let counts = if peer.near {
            !peer.missed
        } else {
            peer.alive && now.saturating_sub(*at) <= REPORT_AGE
        };
        counts.then_some(report)
    }

    /// Whether a peer is missed by this node or marked. A node that is no peer is.
    pub fn is_missed(&self, index: u32) -> bool {
        self.peers
            .get(&index)
            .is_none_or(|peer| peer.missed || !peer.alive)
    }

    /// Whether a peer may be gone: missed, or not heard in the latest rounds.
    pub fn is_quiet(&self, index: u32, now: Duration) -> bool {
        let rounds = |peer: &PeerState| peer.near && now.saturating_sub(peer.heard) > INTERVAL * 5 / 2;
        self.is_missed(index) || self.peers.get(&index).is_some_and(rounds)
    }

    /// For how long a peer has answered without a break; None while it does not.
    pub fn answers_for(&self, index: u32, now: Duration) -> Option<Duration> {
        let since = self.peers.get(&index)?.answers_since?;
        Some(now.saturating_sub(since))
    }

    /// For how long nothing was heard from a peer; as long as can be from a node that is no peer.
    pub fn silence(&self, index: u32, now: Duration) -> Duration {
        let peer = self.peers.get(&index);
        peer.map_or(Duration::MAX, |peer| now.saturating_sub(peer.heard))
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

impl PeerState {
    fn new(now: Duration) -> Self {
        Self {
            near: true,
            observers: BTreeSet::new(),
            latest: None,
            acknowledged: 0,
            heard: now,
            regular: false,
            patience: Patience::new(INTERVAL),
            missed: false,
            alive: true,
            report: None,
            answers_since: None,
            rtt: None,
            sent: Duration::ZERO,
        }
    }

    fn restart_clock(&mut self, now: Duration) {
        self.heard = now;
        self.regular = false;
    }

    fn is_heard(&mut self, now: Duration) {
        if self.regular {
            self.patience.learn(now.saturating_sub(self.heard));
        }
        self.regular = true;
        self.heard = now;
        self.missed = false;
        self.alive = true;
        self.answers_since.get_or_insert(now);
    }
}

#[cfg(test)]
mod tests;
