//! One node's whole part in the probes: the judge, the leases and what is told, behind one clock and one outbox.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::held::Held;
use super::judge::{INTERVAL, Judge};
use super::lease::{Around, Leases, World};
use super::message::part::MAX_NODES;
use super::message::{MAX_PARTS_LEN, Message, Part};
use super::watched::Watched;
use super::withdrawn::Withdrawn;

/// How often everything is told to everybody, though nothing has changed.
const STATEMENT_EVERY: Duration = Duration::from_secs(1);
/// What has changed is told at once, and with so many rounds more.
const REPEATS: u8 = 3;

/// What others should hear of at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Mark {
        node: u32,
        alive: bool,
    },
    /// `own_until`: until when this node holds it itself.
    Lease {
        index: u32,
        held: Held,
        own_until: Option<Duration>,
    },
    Withdrawn,
}

#[derive(Debug)]
pub struct Node {
    judge: Judge,
    leases: Leases,
    withdrawn: Withdrawn,
    marks: BTreeMap<u32, bool>,
    /// What this node held at the last statement, by term.
    announced: BTreeMap<u32, u64>,
    next_round: Duration,
    next_statement: Duration,
    repeats: u8,
    /// Parts to send, by receiver; a datagram without parts is a probe as well.
    out: BTreeMap<u32, Vec<Part>>,
    events: Vec<Event>,
}

impl Node {
    /// `boot` is a number drawn at start, not 0.
    pub fn new(index: u32, boot: u64, now: Duration) -> Self {
        Self {
            judge: Judge::new(index, boot, now),
            leases: Leases::new(index, now),
            withdrawn: Withdrawn::default(),
            marks: BTreeMap::new(),
            announced: BTreeMap::new(),
            next_round: now,
            next_statement: now,
            repeats: 0,
            out: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// Takes over what it is asked to watch.
    pub fn watch(&mut self, watched: &Watched, now: Duration) {
        let peers: BTreeSet<u32> = watched.peers.iter().map(|peer| peer.index).collect();
        self.judge.set_peers(&peers, now);
        self.leases.set(&watched.leases, now);
        self.repeats = REPEATS;
        self.next_round = now;
        if self.withdrawn.set(&watched.withdrawn) {
            self.next_statement = now;
        }
        if self.withdrawn.retain(&peers) {
            self.events.push(Event::Withdrawn);
        }
    }

    /// Takes in a datagram that was sealed with the swarm's key.
    pub fn receive(&mut self, message: &Message, now: Duration, world: &mut dyn World) {
        let envelope = &message.envelope;
        let is_believed = self.judge.receive(envelope, now);
        if self.judge.is_stranger(envelope, now) {
            self.out.entry(envelope.sender).or_default();
        }
        if !is_believed {
            return;
        }
        for part in &message.parts {
            match part {
                Part::Missed(missed) => self.judge.report(envelope.sender, missed, now),
                Part::Withdrawn { .. } => {
                    if self.withdrawn.receive(envelope.sender, envelope.boot, part) {
                        self.events.push(Event::Withdrawn);
                    }
                }
                _ => {
                    let judge = &self.judge;
                    let mut around = Around { now, judge, world };
                    self.leases.receive(envelope.sender, part, &mut around);
                }
            }
        }
    }

    /// Does whatever is due. Call it after what was received meanwhile has been taken in.
    pub fn poll(&mut self, now: Duration, world: &mut dyn World) {
        let misses_others = self.judge.judge(now);
        let judge = &self.judge;
        self.leases.poll(&mut Around { now, judge, world });
        for (index, held, own_until) in self.leases.take_changed() {
            self.events.push(Event::Lease {
                index,
                held,
                own_until,
            });
        }
        self.note_marks();
        for (to, part) in self.leases.take_out() {
            self.out.entry(to).or_default().push(part);
        }
        self.tell(misses_others, now);
    }

    fn note_marks(&mut self) {
        let marks = self.judge.alive();
        for (&node, &alive) in &marks {
            // A new peer is alive, which is no news.
            if self.marks.get(&node).copied().unwrap_or(true) != alive {
                self.events.push(Event::Mark { node, alive });
            }
        }
        for (&node, _) in self
            .marks
            .iter()
            .filter(|(node, alive)| !**alive && !marks.contains_key(node))
        {
            self.events.push(Event::Mark { node, alive: true });
        }
        self.marks = marks;
    }

    /// The rounds of probes, and statements to everybody.
    fn tell(&mut self, misses_others: bool, now: Duration) {
        let terms: BTreeMap<u32, u64> = self
            .leases
            .own()
            .into_iter()
            .map(|(index, tenure)| (index, tenure.term))
            .collect();
        let has_news = misses_others
            || terms
                .iter()
                .any(|(index, term)| self.announced.get(index) != Some(term));
        self.announced = terms;
        if has_news {
            self.repeats = REPEATS + 1;
        }
        if !has_news && now < self.next_round.min(self.next_statement) {
            return;
        }
        let missed = Part::Missed(self.judge.missed().into_iter().take(MAX_NODES).collect());
        if now >= self.next_round || has_news {
            self.next_round = now + INTERVAL;
            for node in self.judge.near() {
                self.out.entry(node).or_default().push(missed.clone());
            }
        }
        if self.repeats > 0 || now >= self.next_statement {
            self.next_statement = now + STATEMENT_EVERY;
            self.leases.repeat();
            self.repeats = self.repeats.saturating_sub(1);
            self.state(&missed);
        }
    }

    fn state(&mut self, missed: &Part) {
        let mut statement = self.withdrawn.parts();
        for (index, tenure) in self.leases.own() {
            statement.push(Part::Holder { index, tenure });
        }
        let near: BTreeSet<u32> = self.judge.near().collect();
        for node in self.judge.peers() {
            let parts = self.out.entry(node).or_default();
            if !near.contains(&node) {
                parts.push(missed.clone());
            }
            parts.extend(statement.iter().cloned());
        }
    }

    /// When [`Node::poll`] has something to do next.
    pub fn next_due(&self) -> Duration {
        let due = self.next_round.min(self.next_statement);
        let others = [self.judge.next_change(), self.leases.next_due(&self.judge)];
        others.into_iter().flatten().fold(due, Duration::min)
    }

    /// The datagrams to send now, each with what fits.
    pub fn take_out(&mut self, now: Duration) -> Vec<Message> {
        let mut messages = Vec::new();
        for (to, parts) in std::mem::take(&mut self.out) {
            let mut load: Vec<Part> = Vec::new();
            let mut length = 0;
            for part in parts {
                let size = part.to_bytes().len();
                if length + size > MAX_PARTS_LEN && !load.is_empty() {
                    let parts = std::mem::take(&mut load);
                    messages.extend(
                        self.judge
                            .envelope(to, now)
                            .map(|envelope| Message { envelope, parts }),
                    );
                    length = 0;
                }
                length += size;
                load.push(part);
            }
            let parts = load;
            messages.extend(
                self.judge
                    .envelope(to, now)
                    .map(|envelope| Message { envelope, parts }),
            );
        }
        messages
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// From now on this node hands over what it holds, and takes nothing.
    pub fn stop(&mut self) {
        self.leases.stop();
    }

    /// Peers that may be gone.
    pub fn quiet(&self, now: Duration) -> Vec<u32> {
        self.judge
            .peers()
            .filter(|peer| self.judge.is_quiet(*peer, now))
            .collect()
    }

    /// The marks, by node index.
    pub fn alive(&self) -> &BTreeMap<u32, bool> {
        &self.marks
    }

    /// The latest round-trip times of the peers that have answered.
    pub fn rtt(&self) -> BTreeMap<u32, Duration> {
        self.judge.rtt()
    }

    /// Who holds which address.
    pub fn held(&self) -> BTreeMap<u32, Held> {
        self.leases.held()
    }

    /// By node: hashes of its tasks that it says have ended.
    pub fn withdrawn(&self) -> BTreeMap<u32, BTreeSet<u64>> {
        self.withdrawn.others()
    }

    #[cfg(test)]
    pub fn leases(&self) -> &Leases {
        &self.leases
    }
}
