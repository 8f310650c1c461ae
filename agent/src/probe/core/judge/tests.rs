//! Judges in a simulated network: virtual time, chosen delays, cuts, stopped and dead nodes.

use proptest::prelude::*;

use super::*;

const NOBODY: [u32; 0] = [];
const STEP: Duration = Duration::from_millis(10);
const TICK: Duration = Duration::from_millis(50);
/// Missed after 700 ms, of which a tick may be missed, plus the others' reports.
const BOUND: Duration = Duration::from_millis(1200);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    /// Keeps its memory and its incoming datagrams, does nothing.
    Stopped,
    Dead,
}

struct Node {
    judge: Judge,
    state: State,
    next_tick: Duration,
    next_round: Duration,
}

struct Net {
    nodes: Vec<Node>,
    cut: BTreeSet<(u32, u32)>,
    delay: Duration,
    on_the_way: Vec<(Duration, Message)>,
    now: Duration,
    boots: u64,
}

impl Net {
    /// Nodes 1 to `count`, which tick out of step with each other.
    fn new(count: u32, delay: Duration) -> Self {
        let mut net = Self {
            nodes: Vec::new(),
            cut: BTreeSet::new(),
            delay,
            on_the_way: Vec::new(),
            now: Duration::ZERO,
            boots: 0,
        };
        for index in 1..=count {
            let judge = net.fresh(index, count);
            let phase = STEP * (index * 3 % 5);
            net.nodes.push(Node {
                judge,
                state: State::Up,
                next_tick: phase,
                next_round: phase,
            });
        }
        net
    }

    fn fresh(&mut self, index: u32, count: u32) -> Judge {
        self.boots += 1;
        let mut judge = Judge::new(index, self.boots, self.now);
        judge.set_peers(&(1..=count).collect(), self.now);
        judge
    }

    fn node(&mut self, index: u32) -> &mut Node {
        &mut self.nodes[index as usize - 1]
    }

    fn restart(&mut self, index: u32) {
        let count = self.nodes.len() as u32;
        let judge = self.fresh(index, count);
        let now = self.now;
        *self.node(index) = Node {
            judge,
            state: State::Up,
            next_tick: now,
            next_round: now,
        };
    }

    fn cut_both_ways(&mut self, one: u32, other: u32) {
        self.cut.extend([(one, other), (other, one)]);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            self.deliver();
            let now = self.now;
            for node in &mut self.nodes {
                if node.state != State::Up || now < node.next_tick {
                    continue;
                }
                node.next_tick = now + TICK;
                let news = node.judge.judge(now);
                if news || now >= node.next_round {
                    node.next_round = now + INTERVAL;
                    let arrival = now + self.delay;
                    self.on_the_way
                        .extend(node.judge.probes(now).into_iter().map(|probe| (arrival, probe)));
                }
            }
        }
    }

    fn deliver(&mut self) {
        for (arrival, probe) in std::mem::take(&mut self.on_the_way) {
            if self.cut.contains(&(probe.sender, probe.receiver)) {
                continue;
            }
            let now = self.now;
            let node = self.node(probe.receiver);
            match node.state {
                State::Dead => {}
                State::Up if arrival <= now => {
                    node.judge.judge(now);
                    node.judge.receive(&probe, now);
                    node.judge.judge(now);
                }
                State::Up | State::Stopped => self.on_the_way.push((arrival, probe)),
            }
        }
    }

    /// Whom a node has marked.
    fn marked(&self, index: u32) -> Vec<u32> {
        let alive = self.nodes[index as usize - 1].judge.alive();
        alive
            .into_iter()
            .filter(|(_, alive)| !alive)
            .map(|(index, _)| index)
            .collect()
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn small_delay() -> impl Strategy<Value = Duration> {
    (0u64..100).prop_map(ms)
}

#[test]
fn the_round_trip_is_without_the_wait_at_the_other_end() {
    let mut net = Net::new(2, ms(30));
    net.run(ms(2000));
    let rtt = net.node(1).judge.rtt()[&2];
    assert!((ms(60)..=ms(80)).contains(&rtt), "{rtt:?}");
}

#[test]
fn a_link_that_one_observer_misses_marks_nobody() {
    let mut net = Net::new(3, ms(1));
    net.run(ms(1000));
    net.cut_both_ways(1, 2);
    net.run(ms(3000));
    for index in 1..=3 {
        assert_eq!(net.marked(index), NOBODY, "node {index}");
    }
}

#[test]
fn a_node_that_only_sends_is_gone() {
    let mut net = Net::new(3, ms(1));
    net.run(ms(1000));
    net.cut.extend([(1, 3), (2, 3)]);
    net.run(BOUND);
    assert_eq!((net.marked(1), net.marked(2)), (vec![3], vec![3]));
    assert_eq!(
        net.marked(3),
        [] as [u32; 0],
        "the one that is cut off marks nobody"
    );
}

#[test]
fn the_last_of_two_counts_by_itself() {
    let mut net = Net::new(3, ms(1));
    net.run(ms(1000));
    net.node(3).state = State::Dead;
    net.run(BOUND);
    net.node(2).state = State::Dead;
    net.run(BOUND);
    assert_eq!(net.marked(1), [2, 3]);
}

#[test]
fn a_recorded_probe_neither_proves_nor_displaces() {
    let mut judge = Judge::new(1, 10, ms(0));
    judge.set_peers(&BTreeSet::from([2]), ms(0));
    let mut peer = Judge::new(2, 20, ms(0));
    peer.set_peers(&BTreeSet::from([1]), ms(0));
    let first = judge.probes(ms(0)).remove(0);
    assert!(!peer.receive(&first, ms(1)), "acknowledges nothing yet");
    let answer = peer.probes(ms(2)).remove(0);
    assert!(judge.receive(&answer, ms(3)));
    assert!(!judge.receive(&answer, ms(4)), "doubled");
    // From an earlier life of the peer, with a sequence that is higher than today's.
    let recorded = Message {
        boot: 5,
        sequence: 999,
        ack_boot: 9,
        ..answer.clone()
    };
    assert!(!judge.receive(&recorded, ms(5)));
    assert_eq!(judge.probes(ms(6))[0].ack_boot, 20);
    // A probe that acknowledges one of long ago is no proof.
    let late = Message {
        sequence: 2,
        ..answer
    };
    assert!(!judge.receive(&late, ms(1100)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn nobody_is_marked_while_all_are_well(count in 2u32..7, delay in small_delay()) {
        let mut net = Net::new(count, delay);
        for _ in 0..20 {
            net.run(ms(200));
            for index in 1..=count {
                prop_assert_eq!(net.marked(index), NOBODY);
            }
        }
    }

    #[test]
    fn a_dead_node_is_marked_by_all_in_time_and_comes_back(
        count in 2u32..7, delay in small_delay(), dead in 1u32..7, lead in 1000u64..1400, restart: bool,
    ) {
        prop_assume!(dead <= count);
        let mut net = Net::new(count, delay);
        net.run(ms(lead));
        net.node(dead).state = State::Dead;
        net.run(BOUND);
        for index in (1..=count).filter(|index| *index != dead) {
            prop_assert_eq!(net.marked(index), vec![dead]);
        }
        if restart {
            net.restart(dead);
        } else {
            // Its own clocks restart too: it has not run for a while.
            net.node(dead).state = State::Up;
        }
        net.run(ms(700));
        for index in 1..=count {
            prop_assert_eq!(net.marked(index), NOBODY);
        }
    }

    #[test]
    fn a_quick_restart_is_not_even_noticed(count in 2u32..6, delay in small_delay(), lead in 1000u64..1400) {
        let mut net = Net::new(count, delay);
        net.run(ms(lead));
        net.restart(1);
        for _ in 0..30 {
            net.run(ms(100));
            for index in 1..=count {
                prop_assert_eq!(net.marked(index), NOBODY);
            }
        }
    }

    #[test]
    fn whoever_is_cut_off_marks_nobody(count in 3u32..7, delay in small_delay(), lead in 1000u64..1400) {
        let mut net = Net::new(count, delay);
        net.run(ms(lead));
        for other in 2..=count {
            net.cut_both_ways(1, other);
        }
        for _ in 0..30 {
            net.run(ms(100));
            prop_assert_eq!(net.marked(1), NOBODY);
        }
        for index in 2..=count {
            prop_assert_eq!(net.marked(index), vec![1]);
        }
    }

    #[test]
    fn a_node_that_was_stopped_blames_nobody(
        count in 2u32..7, delay in small_delay(), lead in 1000u64..1400, pause in 100u64..5000,
    ) {
        let mut net = Net::new(count, delay);
        net.run(ms(lead));
        net.node(1).state = State::Stopped;
        net.run(ms(pause));
        net.node(1).state = State::Up;
        for _ in 0..20 {
            net.run(ms(50));
            prop_assert_eq!(net.marked(1), NOBODY);
        }
        for index in 2..=count {
            prop_assert_eq!(net.marked(index), NOBODY);
        }
    }

    #[test]
    fn whatever_is_said_a_node_never_marks_itself_or_a_stranger(
        said in proptest::collection::vec(
            (0u32..6, 0u64..3, 0u64..20, 0u64..3, 0u64..20, proptest::collection::vec(0u32..6, 0..6), 0u64..900),
            0..60,
        ),
    ) {
        let mut judge = Judge::new(1, 1, Duration::ZERO);
        let peers = BTreeSet::from([1, 2, 3, 4]);
        judge.set_peers(&peers, Duration::ZERO);
        let mut now = Duration::ZERO;
        for (sender, boot, sequence, ack_boot, ack_sequence, missed, wait) in said {
            now += ms(wait);
            let receiver = 1;
            let hold_us = u32::MAX;
            judge.receive(&Message { sender, receiver, boot, sequence, ack_boot, ack_sequence, hold_us, missed }, now);
            judge.judge(now);
            judge.probes(now);
            let alive = judge.alive();
            prop_assert_eq!(alive.keys().copied().collect::<Vec<_>>(), vec![2, 3, 4]);
        }
    }
}
