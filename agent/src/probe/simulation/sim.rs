//! Nodes in a simulated network: virtual time, clocks that run apart, delays, losses, doubles, cuts, stops and deaths.
//! Everything follows from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::probe::core::lease::World;
use crate::probe::core::message::Message;
use crate::probe::core::node::{Event, Node};
use crate::probe::core::watched::{Lease, Peer, Watched};

/// The one address of all tests.
pub const ADDRESS: u32 = 7;

pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// SplitMix64.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn micros(&mut self, range: (u64, u64)) -> Duration {
        Duration::from_micros(range.0 + self.below(range.1 - range.0 + 1))
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = usize::try_from(self.below(from.len() as u64)).ok()?;
        from.get(at).copied()
    }

    pub fn shuffle(&mut self, list: &mut [u32]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Up,
    /// Keeps its memory and its incoming datagrams, does nothing; its kernel goes on.
    Stopped,
    /// The agent is gone; its kernel answers until the lease ends.
    Killed,
    /// Nothing is left.
    Dead,
}

struct Outside {
    able: bool,
    connected: bool,
    unix_ms: u64,
}

impl World for Outside {
    fn may_hold(&mut self, _: u32, alone: bool) -> bool {
        self.able && (self.connected || !alone)
    }

    fn unix_ms(&self) -> u64 {
        self.unix_ms
    }
}

pub struct Machine {
    pub node: Node,
    pub state: State,
    world: Outside,
    /// Local clock: ahead by this, and faster by so many millionths.
    ahead: Duration,
    drift_ppm: i64,
    inbox: Vec<Message>,
    wake: Duration,
    /// What the kernel was told, in global time.
    kernel_until: Option<Duration>,
    handed_to: BTreeSet<u32>,
    pub marks: BTreeSet<u32>,
    pub config: Watched,
}

impl Machine {
    fn local(&self, global: Duration) -> Duration {
        let drift = i128::from(self.drift_ppm) * global.as_nanos() as i128 / 1_000_000;
        let nanos = global.as_nanos() as i128 + drift + self.ahead.as_nanos() as i128;
        Duration::from_nanos(nanos as u64)
    }

    fn global(&self, local: Duration) -> Duration {
        let nanos = local.as_nanos() as i128 - self.ahead.as_nanos() as i128;
        let drift = i128::from(self.drift_ppm) * nanos / (1_000_000 + i128::from(self.drift_ppm));
        Duration::from_nanos((nanos - drift + 1000).max(0) as u64)
    }
}

pub struct Sim {
    pub seed: u64,
    pub chance: Chance,
    pub now: Duration,
    pub machines: BTreeMap<u32, Machine>,
    on_the_way: BTreeMap<(Duration, u64), (u32, Message)>,
    sent: u64,
    pub cut: BTreeSet<(u32, u32)>,
    pub loss_percent: u64,
    pub double_percent: u64,
    /// In microseconds.
    pub delay: (u64, u64),
    /// How late a machine wakes up, in microseconds.
    pub late: (u64, u64),
    pub lease: Lease,
    /// More than one holder is what the two-observer rule allows.
    pub may_be_two: bool,
    /// Who held, when it changed.
    pub history: Vec<(Duration, Vec<u32>)>,
    /// Who was marked at any time.
    pub marked_ever: BTreeSet<u32>,
    pub log: Vec<String>,
}

impl Sim {
    /// Nodes 1 to `count` that know each other and the lease.
    pub fn new(seed: u64, count: u32, owners: &[u32], observers: &[u32]) -> Self {
        let mut sim = Self {
            seed,
            chance: Chance(seed),
            now: ms(1000),
            machines: BTreeMap::new(),
            on_the_way: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            loss_percent: 0,
            double_percent: 0,
            delay: (100, 1500),
            late: (0, 1500),
            lease: Lease {
                index: ADDRESS,
                epoch: 1,
                owners: owners.to_vec(),
                observers: observers.to_vec(),
            },
            may_be_two: false,
            history: Vec::new(),
            marked_ever: BTreeSet::new(),
            log: Vec::new(),
        };
        let config = Watched {
            peers: (1..=count)
                .map(|index| Peer {
                    index,
                    address: ([10, 0, 0, 1], 1).into(),
                })
                .collect(),
            leases: vec![sim.lease.clone()],
            withdrawn: BTreeSet::new(),
        };
        for index in 1..=count {
            sim.boot(index, config.clone());
        }
        sim
    }

    fn boot(&mut self, index: u32, config: Watched) {
        let drift_ppm = self.chance.below(400) as i64 - 200;
        let ahead = ms(self.chance.below(1_000_000));
        let boot = self.chance.next() | 1;
        let before = self.machines.remove(&index);
        let mut machine = Machine {
            node: Node::new(index, boot, Duration::ZERO),
            state: State::Up,
            world: Outside {
                able: before.as_ref().is_none_or(|before| before.world.able),
                connected: before.as_ref().is_none_or(|before| before.world.connected),
                unix_ms: 0,
            },
            ahead: before.as_ref().map_or(ahead, |before| before.ahead),
            drift_ppm: before.as_ref().map_or(drift_ppm, |before| before.drift_ppm),
            inbox: Vec::new(),
            wake: self.now,
            kernel_until: None,
            handed_to: BTreeSet::new(),
            marks: BTreeSet::new(),
            config,
        };
        let now = machine.local(self.now);
        machine.node = Node::new(index, boot, now);
        machine.node.watch(&machine.config, now);
        self.machines.insert(index, machine);
    }

    pub fn machine(&mut self, index: u32) -> &mut Machine {
        self.machines.get_mut(&index).unwrap()
    }

    pub fn note(&mut self, what: String) {
        self.log.push(format!("{:?}: {what}", self.now));
    }

    pub fn set(&mut self, index: u32, state: State) {
        self.note(format!("{index} is {state:?}"));
        let now = self.now;
        let machine = self.machine(index);
        let before = std::mem::replace(&mut machine.state, state);
        if state == State::Dead {
            machine.kernel_until = None;
        }
        if state == State::Up {
            if matches!(before, State::Killed | State::Dead) {
                let config = machine.config.clone();
                self.boot(index, config);
            } else {
                machine.wake = now;
            }
        }
        self.check();
    }

    pub fn able(&mut self, index: u32, able: bool) {
        self.note(format!("{index} can hold: {able}"));
        self.machine(index).world.able = able;
    }

    pub fn connected(&mut self, index: u32, connected: bool) {
        self.machine(index).world.connected = connected;
    }

    pub fn stop_planned(&mut self, index: u32) {
        self.note(format!("{index} stops as planned"));
        let now = self.now;
        let machine = self.machine(index);
        machine.node.stop();
        machine.wake = now;
    }

    /// Commits a new epoch; nodes learn of it one by one, within `spread` microseconds.
    pub fn commit(&mut self, owners: &[u32], observers: &[u32]) {
        self.lease.epoch += 1;
        self.lease.owners = owners.to_vec();
        self.lease.observers = observers.to_vec();
        self.note(format!("{:?}", self.lease));
    }

    /// A node hears of what is committed.
    pub fn inform(&mut self, index: u32) {
        let now = self.now;
        let lease = self.lease.clone();
        let machine = self.machine(index);
        machine.config.leases = vec![lease];
        if machine.state == State::Up {
            let local = machine.local(now);
            machine.node.watch(&machine.config, local);
            machine.wake = now;
        }
    }

    pub fn inform_all(&mut self) {
        let all: Vec<u32> = self.machines.keys().copied().collect();
        all.into_iter().for_each(|index| self.inform(index));
    }

    pub fn split(&mut self, group: &BTreeSet<u32>) {
        self.note(format!("{group:?} are cut off"));
        let all: Vec<u32> = self.machines.keys().copied().collect();
        for one in &all {
            for other in &all {
                if group.contains(one) != group.contains(other) {
                    self.cut.insert((*one, *other));
                }
            }
        }
    }

    pub fn heal(&mut self) {
        self.note("healed".to_string());
        self.cut.clear();
    }

    /// Runs for so long; every moment is checked.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrival = self.on_the_way.first_key_value().map(|((at, _), _)| *at);
            let up = self
                .machines
                .values()
                .filter(|machine| machine.state == State::Up);
            let wake = up.map(|machine| machine.wake).min();
            let ends = self.machines.values().filter_map(|machine| machine.kernel_until);
            let ends = ends.filter(|at| *at > self.now).min();
            let Some(next) = [arrival, wake, ends].into_iter().flatten().min() else {
                self.now = end;
                return;
            };
            if next > end {
                self.now = end;
                self.check();
                return;
            }
            self.now = self.now.max(next);
            self.deliver();
            self.wake();
            self.check();
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.on_the_way.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let (to, message) = entry.remove();
            let now = self.now;
            let Some(machine) = self.machines.get_mut(&to) else {
                continue;
            };
            match machine.state {
                State::Up | State::Stopped => {
                    machine.inbox.push(message);
                    machine.wake = machine.wake.min(now);
                }
                State::Killed | State::Dead => {}
            }
        }
    }

    fn wake(&mut self) {
        let now = self.now;
        let mut sent = Vec::new();
        for machine in self.machines.values_mut() {
            if machine.state != State::Up || machine.wake > now {
                continue;
            }
            let local = machine.local(now);
            machine.world.unix_ms = now.as_millis() as u64;
            for message in std::mem::take(&mut machine.inbox) {
                machine.node.receive(&message, local, &mut machine.world);
            }
            machine.node.poll(local, &mut machine.world);
            for event in machine.node.take_events() {
                match event {
                    Event::Mark { node, alive: false } => {
                        self.marked_ever.insert(node);
                        machine.marks.insert(node);
                    }
                    Event::Mark { node, alive: true } => {
                        machine.marks.remove(&node);
                    }
                    Event::Lease { own_until, .. } => {
                        machine.kernel_until = own_until.map(|until| machine.global(until));
                    }
                    Event::Withdrawn => {}
                }
            }
            let address = machine.node.leases().address(ADDRESS);
            machine.handed_to = (1..=10)
                .filter(|node| address.is_some_and(|address| address.has_handed_to(*node)))
                .collect();
            sent.extend(machine.node.take_out(local));
            let due = machine.global(machine.node.next_due());
            machine.wake = due.max(now) + self.chance.micros(self.late);
        }
        sent.into_iter().for_each(|message| self.send(message));
    }

    fn send(&mut self, message: Message) {
        let (from, to) = (message.envelope.sender, message.envelope.receiver);
        if self.cut.contains(&(from, to)) || self.chance.percent(self.loss_percent) {
            return;
        }
        let copies = 1 + usize::from(self.chance.percent(self.double_percent));
        for _ in 0..copies {
            self.sent += 1;
            let at = self.now + self.chance.micros(self.delay);
            self.on_the_way.insert((at, self.sent), (to, message.clone()));
        }
    }

    /// Whose view is valid now.
    pub fn holders(&self) -> Vec<u32> {
        let holds = |machine: &Machine| machine.kernel_until.is_some_and(|until| until > self.now);
        let holders = self.machines.iter().filter(|(_, machine)| holds(machine));
        holders.map(|(index, _)| *index).collect()
    }

    fn check(&mut self) {
        let holders = self.holders();
        if self.history.last().is_none_or(|(_, last)| *last != holders) {
            self.note(format!("held by {holders:?}"));
            self.history.push((self.now, holders.clone()));
        }
        let hands_over = |one: u32, other: u32| self.machines[&one].handed_to.contains(&other);
        let fine = match holders[..] {
            [] | [_] => true,
            [one, other] => self.may_be_two || hands_over(one, other) || hands_over(other, one),
            _ => false,
        };
        assert!(
            fine,
            "seed {}: {holders:?} hold at once\n{}",
            self.seed,
            self.log.join("\n")
        );
    }

    /// Runs until there is a holder.
    pub fn until_held(&mut self, patience: Duration) {
        let end = self.now + patience;
        while self.holders().is_empty() {
            let (seed, log) = (self.seed, self.log.join("\n"));
            assert!(self.now < end, "seed {seed}: not held within {patience:?}\n{log}");
            self.run(ms(1));
        }
    }

    /// Runs until the holders are these; how long that took.
    pub fn until_held_by(&mut self, holder: &[u32], patience: Duration) -> Duration {
        let begin = self.now;
        while self.holders() != holder {
            assert!(
                self.now < begin + patience,
                "seed {}: not held by {holder:?} within {patience:?}\n{}",
                self.seed,
                self.log.join("\n")
            );
            self.run(ms(1));
        }
        self.now - begin
    }

    /// The longest time without a holder since a moment.
    pub fn longest_gap(&self, since: Duration) -> Duration {
        let mut longest = Duration::ZERO;
        for (at, (begin, holders)) in self.history.iter().enumerate() {
            let end = self.history.get(at + 1).map_or(self.now, |(end, _)| *end);
            if holders.is_empty() && end > since {
                longest = longest.max(end - *begin.max(&since));
            }
        }
        longest
    }
}
