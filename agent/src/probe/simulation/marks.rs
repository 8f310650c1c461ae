//! Who is marked, when, and by whom.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::sim::{Sim, State, ms};

/// A lost node is missed after 450 ms when it was heard regularly, of which two rounds may be missing, plus the reports.
const BOUND: Duration = Duration::from_millis(700);

const NOBODY: [u32; 0] = [];

/// Nodes that know each other, with one delay for all.
fn calm(count: u32, delay_ms: u64, lead_ms: u64) -> Sim {
    let mut sim = Sim::new(u64::from(count) * 1000 + delay_ms, count, &[], &[]);
    sim.delay = (delay_ms * 1000 + 100, delay_ms * 1000 + 2000);
    sim.run(ms(lead_ms));
    sim
}

fn marks(sim: &Sim, index: u32) -> Vec<u32> {
    sim.machines[&index].marks.iter().copied().collect()
}

fn cut_both_ways(sim: &mut Sim, one: u32, other: u32) {
    sim.cut.extend([(one, other), (other, one)]);
}

#[test]
fn a_link_that_one_observer_misses_marks_nobody() {
    let mut sim = calm(3, 1, 1000);
    cut_both_ways(&mut sim, 1, 2);
    sim.run(ms(3000));
    for index in 1..=3 {
        assert_eq!(marks(&sim, index), NOBODY, "node {index}");
    }
}

#[test]
fn a_node_that_only_sends_is_gone() {
    let mut sim = calm(3, 1, 1000);
    sim.cut.extend([(1, 3), (2, 3)]);
    sim.run(BOUND);
    assert_eq!((marks(&sim, 1), marks(&sim, 2)), (vec![3], vec![3]));
    assert_eq!(marks(&sim, 3), NOBODY, "the one that is cut off marks nobody");
}

#[test]
fn the_last_of_two_counts_by_itself() {
    let mut sim = calm(3, 1, 1000);
    sim.set(3, State::Dead);
    sim.run(BOUND);
    sim.set(2, State::Dead);
    sim.run(BOUND);
    assert_eq!(marks(&sim, 1), [2, 3]);
}

#[test]
fn a_node_that_is_removed_loses_its_mark() {
    let mut sim = calm(3, 1, 1000);
    sim.set(3, State::Dead);
    sim.run(BOUND);
    assert_eq!(marks(&sim, 1), [3]);
    sim.machine(1).config.peers.retain(|peer| peer.index != 3);
    sim.inform(1);
    sim.run(ms(10));
    assert_eq!(marks(&sim, 1), NOBODY);
}

#[test]
fn in_a_large_swarm_everybody_marks_the_dead_and_takes_the_marks_back() {
    let mut sim = calm(40, 1, 2500);
    sim.set(17, State::Dead);
    sim.run(BOUND);
    let others = || (1..=40).filter(|index| *index != 17);
    for index in others() {
        assert_eq!(marks(&sim, index), [17], "node {index}");
    }
    sim.set(17, State::Up);
    sim.run(ms(1000));
    for index in 1..=40 {
        assert_eq!(marks(&sim, index), NOBODY, "node {index}");
    }
}

#[test]
fn in_a_large_swarm_a_lot_may_die_at_once() {
    let mut sim = calm(40, 1, 2500);
    let dead: Vec<u32> = (1..=40).filter(|index| index % 3 == 0).collect();
    for &index in &dead {
        sim.set(index, State::Dead);
    }
    sim.run(BOUND);
    for index in (1..=40).filter(|index| index % 3 != 0) {
        assert_eq!(marks(&sim, index), dead, "node {index}");
    }
}

#[test]
fn ended_tasks_are_told_to_all_and_told_again_to_who_missed_it() {
    let mut sim = calm(20, 1, 2500);
    // What overtakes another is not taken, and told again later.
    sim.delay = (1000, 1000);
    sim.split(&BTreeSet::from([9]));
    sim.machine(1).config.withdrawn = (0..300).collect();
    sim.inform(1);
    sim.run(ms(50));
    let told = |sim: &Sim, index: u32| sim.machines[&index].node.withdrawn().remove(&1);
    for index in (2..=20).filter(|index| *index != 9) {
        assert_eq!(told(&sim, index).unwrap().len(), 300, "node {index}");
    }
    assert_eq!(told(&sim, 9), None);
    sim.heal();
    sim.run(ms(2500));
    assert_eq!(told(&sim, 9).unwrap().len(), 300);
    sim.machine(1).config.withdrawn.clear();
    sim.inform(1);
    sim.run(ms(50));
    for index in 2..=20 {
        assert_eq!(told(&sim, index), None, "node {index}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn nobody_is_marked_while_all_are_well(count in 2u32..7, delay in 0u64..100, late in 0u64..80) {
        let mut sim = calm(count, delay, 0);
        // Whoever waits for a CPU now and then is not dead.
        sim.late = (0, late * 1000);
        for _ in 0..20 {
            sim.run(ms(200));
            for index in 1..=count {
                prop_assert_eq!(marks(&sim, index), NOBODY);
            }
        }
    }

    #[test]
    fn a_dead_node_is_marked_by_all_in_time_and_comes_back(
        count in 2u32..7, delay in 0u64..50, dead in 1u32..7, lead in 1000u64..1400, restart: bool,
    ) {
        prop_assume!(dead <= count);
        let mut sim = calm(count, delay, lead);
        sim.set(dead, if restart { State::Dead } else { State::Stopped });
        sim.run(BOUND);
        for index in (1..=count).filter(|index| *index != dead) {
            prop_assert_eq!(marks(&sim, index), vec![dead]);
        }
        sim.set(dead, State::Up);
        sim.run(ms(500));
        for index in 1..=count {
            prop_assert_eq!(marks(&sim, index), NOBODY);
        }
    }

    #[test]
    fn a_stop_of_300_ms_is_not_noticed_and_blames_nobody(
        count in 2u32..7, delay in 0u64..20, lead in 1000u64..1400, stops in 1usize..4,
    ) {
        let mut sim = calm(count, delay, lead);
        for _ in 0..stops {
            sim.set(1, State::Stopped);
            sim.run(ms(300));
            sim.set(1, State::Up);
            sim.run(ms(300));
        }
        prop_assert!(sim.marked_ever.is_empty(), "{:?}", sim.marked_ever);
    }

    #[test]
    fn a_quick_restart_is_not_even_noticed(count in 2u32..6, delay in 0u64..100, lead in 1000u64..1400) {
        let mut sim = calm(count, delay, lead);
        sim.set(1, State::Dead);
        sim.set(1, State::Up);
        for _ in 0..30 {
            sim.run(ms(100));
            for index in 1..=count {
                prop_assert_eq!(marks(&sim, index), NOBODY);
            }
        }
    }

    #[test]
    fn whoever_is_cut_off_marks_nobody(count in 3u32..7, delay in 0u64..50, lead in 1000u64..1400) {
        let mut sim = calm(count, delay, lead);
        sim.split(&BTreeSet::from([1]));
        for _ in 0..30 {
            sim.run(ms(100));
            prop_assert_eq!(marks(&sim, 1), NOBODY);
        }
        for index in 2..=count {
            prop_assert_eq!(marks(&sim, index), vec![1]);
        }
    }

    #[test]
    fn a_node_that_was_stopped_blames_nobody(
        count in 2u32..7, delay in 0u64..50, lead in 1000u64..1400, pause in 100u64..5000,
    ) {
        let mut sim = calm(count, delay, lead);
        sim.set(1, State::Stopped);
        sim.run(ms(pause));
        sim.set(1, State::Up);
        for _ in 0..20 {
            sim.run(ms(50));
            prop_assert_eq!(marks(&sim, 1), NOBODY);
        }
        for index in 2..=count {
            prop_assert_eq!(marks(&sim, index), NOBODY);
        }
    }
}
