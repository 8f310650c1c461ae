//! What leases promise: quick take-over, hand-over without a gap, giving up, and the rule for two.

use std::collections::BTreeSet;
use std::time::Duration;

use super::seeds;
use super::sim::{ADDRESS, Sim, State, ms};
use crate::probe::core::held::Reason;
use crate::probe::core::lease::LEASE;

/// A take-over's bound.
const TAKE_OVER: Duration = LEASE.saturating_add(ms100());

const fn ms100() -> Duration {
    Duration::from_millis(100)
}

/// A swarm in which the first owner holds.
fn settled(seed: u64, count: u32, owners: &[u32], observers: &[u32]) -> Sim {
    let mut sim = Sim::new(seed, count, owners, observers);
    sim.until_held_by(&owners[..1], ms(1500));
    let lead = sim.chance.below(700);
    sim.run(ms(6000 + lead));
    assert_eq!(sim.holders(), owners[..1]);
    sim
}

fn reason(sim: &mut Sim, of: u32) -> Reason {
    sim.machine(of).node.held()[&ADDRESS].reason
}

#[test]
fn the_best_owner_becomes_the_first_holder_and_everybody_knows() {
    for seed in seeds(6) {
        let mut sim = settled(seed, 5, &[3, 1, 2], &[1, 2, 3]);
        for index in 1..=5 {
            let held = sim.machine(index).node.held().remove(&ADDRESS).unwrap();
            assert_eq!(
                (held.holder, held.previous, held.reason),
                (Some(3), None, Reason::FirstHolder)
            );
            assert!(held.since_unix_ms > 0);
        }
    }
}

#[test]
fn the_best_living_owner_takes_over_within_a_lease_and_a_little() {
    for seed in seeds(12) {
        let mut sim = settled(seed, 5, &[3, 1, 2], &[1, 2, 3]);
        sim.set(3, State::Dead);
        let time = sim.until_held_by(&[1], TAKE_OVER);
        assert!(time > ms(300), "seed {seed}: {time:?}");
        sim.run(ms(300));
        for index in [1, 2, 4, 5] {
            let held = sim.machine(index).node.held().remove(&ADDRESS).unwrap();
            let reason = Reason::LeaseEnded(3);
            assert_eq!(
                (held.holder, held.previous, held.reason),
                (Some(1), Some(3), reason)
            );
        }
        // Back for good, the first owner gets it again, and nobody misses a moment.
        sim.set(3, State::Up);
        let begin = sim.now;
        sim.until_held_by(&[3], ms(7000));
        assert_eq!(sim.longest_gap(begin), Duration::ZERO, "seed {seed}");
        sim.run(ms(200));
        assert_eq!(reason(&mut sim, 4), Reason::HandedOver(1));
    }
}

#[test]
fn holder_and_another_node_die_at_once() {
    for seed in seeds(12) {
        let mut sim = settled(seed, 5, &[2, 4, 5, 1, 3], &[1, 2, 3, 4, 5]);
        let other = sim.chance.pick(&[1, 3, 4, 5]).unwrap();
        sim.set(2, State::Dead);
        sim.set(other, State::Dead);
        let next = if other == 4 { 5 } else { 4 };
        // The others come to miss the dead one at different moments: two may claim at once, and a worse one be first.
        sim.until_held(TAKE_OVER + ms(50));
        sim.until_held_by(&[next], ms(200));
    }
}

#[test]
fn a_killed_or_stopped_agent_falls_silent_before_the_next_holder_begins() {
    for seed in seeds(12) {
        let mut sim = settled(seed, 3, &[1, 2, 3], &[1, 2, 3]);
        let state = if seed % 2 == 0 {
            State::Killed
        } else {
            State::Stopped
        };
        sim.set(1, state);
        sim.until_held_by(&[2], TAKE_OVER);
        sim.run(ms(2000));
        sim.set(1, State::Up);
        sim.until_held_by(&[1], ms(8000));
    }
}

#[test]
fn a_holder_that_is_cut_off_gives_up_at_its_leases_end() {
    for seed in seeds(12) {
        let mut sim = settled(seed, 3, &[1, 2, 3], &[1, 2, 3]);
        sim.split(&BTreeSet::from([1]));
        sim.run(LEASE);
        assert!(!sim.holders().contains(&1), "seed {seed}");
        sim.until_held_by(&[2], ms(100));
        // Long enough to be missed.
        sim.run(ms(700));
        sim.heal();
        sim.run(ms(2000));
        assert_eq!(sim.holders(), [2], "seed {seed}: not before it has settled");
        sim.until_held_by(&[1], ms(6000));
    }
}

#[test]
fn a_move_hands_over_without_a_moment_in_which_nobody_holds() {
    for seed in seeds(12) {
        let mut sim = settled(seed, 5, &[1, 2, 3], &[1, 2, 3]);
        sim.loss_percent = seed % 4 * 10;
        let begin = sim.now;
        sim.commit(&[2, 1, 3], &[1, 2, 3]);
        // Nodes learn of it in any order, some much later.
        let mut order = [1, 2, 3, 4, 5];
        sim.chance.shuffle(&mut order);
        for index in order {
            sim.inform(index);
            let wait = sim.chance.below(600);
            sim.run(ms(wait));
        }
        sim.until_held_by(&[2], ms(6000));
        sim.loss_percent = 0;
        sim.run(ms(1500));
        assert_eq!(sim.longest_gap(begin), Duration::ZERO, "seed {seed}");
        assert_eq!(reason(&mut sim, 5), Reason::HandedOver(1));
    }
}

#[test]
fn an_owner_that_cannot_hold_is_passed_over_without_a_gap() {
    for seed in seeds(6) {
        let mut sim = settled(seed, 3, &[1, 2, 3], &[1, 2, 3]);
        sim.able(2, false);
        let begin = sim.now;
        sim.commit(&[2, 1, 3], &[1, 2, 3]);
        sim.inform_all();
        sim.run(ms(12_000));
        assert_eq!(sim.holders(), [1], "seed {seed}");
        assert_eq!(sim.longest_gap(begin), Duration::ZERO, "seed {seed}");
        sim.able(1, false);
        sim.until_held_by(&[3], ms(500));
        assert_eq!(sim.longest_gap(begin), Duration::ZERO, "seed {seed}");
    }
}

#[test]
fn an_owner_that_is_removed_hands_over_and_the_last_one_gives_up() {
    for seed in seeds(6) {
        let mut sim = settled(seed, 4, &[1, 2, 3], &[1, 2, 3]);
        let begin = sim.now;
        sim.commit(&[4, 3], &[1, 2, 3]);
        sim.inform_all();
        sim.until_held_by(&[4], ms(500));
        assert_eq!(sim.longest_gap(begin), Duration::ZERO, "seed {seed}");
        sim.set(3, State::Dead);
        sim.run(ms(2000));
        sim.commit(&[3], &[1, 2, 3]);
        sim.inform_all();
        sim.until_held_by(&[], ms(1000));
        sim.run(ms(1000));
        assert_eq!(reason(&mut sim, 1), Reason::GaveUp(4));
    }
}

#[test]
fn a_planned_stop_hands_over_first() {
    for seed in seeds(12) {
        let mut sim = settled(seed, 3, &[1, 2, 3], &[1, 2, 3]);
        sim.loss_percent = seed % 3 * 10;
        let begin = sim.now;
        sim.stop_planned(1);
        sim.until_held_by(&[2], ms(1000));
        assert_eq!(sim.longest_gap(begin), Duration::ZERO, "seed {seed}");
        sim.set(1, State::Dead);
        sim.run(ms(1000));
        assert_eq!(sim.holders(), [2], "seed {seed}");
    }
}

#[test]
fn new_observers_take_over_from_the_old_ones_without_a_gap() {
    for seed in seeds(12) {
        let mut sim = settled(seed, 6, &[1, 2, 3], &[1, 2, 3]);
        let begin = sim.now;
        sim.commit(&[1, 2, 3], &[2, 4, 5]);
        let mut order = [1, 2, 3, 4, 5, 6];
        sim.chance.shuffle(&mut order);
        for index in order {
            sim.inform(index);
            let wait = sim.chance.below(150);
            sim.run(ms(wait));
        }
        sim.run(ms(1000));
        assert_eq!(sim.holders(), [1], "seed {seed}");
        assert_eq!(sim.longest_gap(begin), Duration::ZERO, "seed {seed}");
        // The old ones do not count any more.
        sim.set(3, State::Dead);
        sim.set(1, State::Dead);
        sim.until_held_by(&[2], TAKE_OVER);
    }
}

#[test]
fn observers_that_restart_one_after_another_end_no_hold() {
    for seed in seeds(6) {
        let mut sim = settled(seed, 4, &[4, 1], &[1, 2, 3]);
        let begin = sim.now;
        for index in [1, 2, 3] {
            sim.set(index, State::Killed);
            let down = sim.chance.below(300);
            sim.run(ms(down));
            sim.set(index, State::Up);
            sim.run(ms(600));
        }
        assert_eq!(sim.holders(), [4], "seed {seed}");
        assert_eq!(sim.longest_gap(begin), Duration::ZERO, "seed {seed}");
    }
}

#[test]
fn of_two_the_survivor_holds_alone_if_it_is_connected() {
    for seed in seeds(12) {
        let mut sim = settled(seed, 2, &[1, 2], &[1, 2]);
        let begin = sim.now;
        // The other one's death is no reason to let go.
        sim.set(2, State::Dead);
        sim.run(ms(2000));
        assert_eq!(sim.longest_gap(begin), Duration::ZERO, "seed {seed}");
        sim.set(2, State::Up);
        sim.run(ms(2000));
        assert_eq!(sim.longest_gap(begin), Duration::ZERO, "seed {seed}");
        assert_eq!(sim.holders(), [1]);
        sim.connected(2, seed % 2 == 0);
        sim.set(1, State::Dead);
        if seed % 2 == 0 {
            sim.until_held_by(&[2], TAKE_OVER);
        } else {
            sim.run(ms(5000));
            assert_eq!(sim.holders(), [0; 0], "seed {seed}");
        }
    }
}

#[test]
fn of_two_that_were_cut_apart_one_holds_within_a_lease_after_the_heal() {
    for seed in seeds(12) {
        let mut sim = settled(seed, 2, &[2, 1], &[1, 2]);
        sim.may_be_two = true;
        sim.split(&BTreeSet::from([1]));
        let cut = sim.chance.below(4000);
        sim.run(ms(1000 + cut));
        assert_eq!(sim.holders(), [1, 2], "seed {seed}: both are connected");
        sim.heal();
        sim.run(LEASE);
        sim.may_be_two = false;
        assert_eq!(sim.holders(), [2], "seed {seed}");
        sim.run(ms(3000));
        assert_eq!(sim.holders(), [2], "seed {seed}");
        for index in [1, 2] {
            assert_eq!(sim.machine(index).node.held()[&ADDRESS].holder, Some(2));
        }
    }
}
