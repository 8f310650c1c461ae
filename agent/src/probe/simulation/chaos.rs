//! Random faults of all kinds at once: never two holders, and one again when all is well.

use std::collections::BTreeSet;

use super::seeds;
use super::sim::{ADDRESS, Sim, State, ms};

#[test]
fn never_two_holders_whatever_happens_and_one_when_all_is_well_again() {
    for seed in seeds(12) {
        let mut sim = start(seed);
        let count = sim.machines.len() as u32;
        for _ in 0..14 {
            misfortune(&mut sim, count);
            let wait = sim.chance.below(900);
            sim.run(ms(wait));
        }
        recover(&mut sim);
    }
}

fn start(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, 0, &[], &[]);
    let count = 3 + sim.chance.below(4) as u32;
    let mut nodes: Vec<u32> = (1..=count).collect();
    sim.chance.shuffle(&mut nodes);
    let observers = if count >= 5 && sim.chance.percent(50) {
        5
    } else {
        3
    };
    let observers = nodes[..observers].to_vec();
    sim.chance.shuffle(&mut nodes);
    let owners = 1 + sim.chance.below(count.into()) as usize;
    let mut sim = Sim::new(seed, count, &nodes[..owners], &observers);
    sim.run(ms(1500));
    sim
}

/// One more fault, or the end of one.
fn misfortune(sim: &mut Sim, count: u32) {
    let node = 1 + sim.chance.below(count.into()) as u32;
    let other = 1 + sim.chance.below(count.into()) as u32;
    let state = sim.machines[&node].state;
    match sim.chance.below(14) {
        0 if state == State::Up => sim.set(node, State::Dead),
        1 | 2 if state == State::Up => sim.set(node, State::Killed),
        3 | 4 if state == State::Up => sim.set(node, State::Stopped),
        0..=5 if state != State::Up => sim.set(node, State::Up),
        0..=6 => {
            let group: BTreeSet<u32> = (1..=count).filter(|_| sim.chance.percent(50)).collect();
            sim.split(&group);
        }
        7 => {
            sim.note(format!("{node} does not reach {other}"));
            sim.cut.insert((node, other));
        }
        8 => sim.heal(),
        9 => {
            sim.loss_percent = sim.chance.below(50);
            sim.double_percent = sim.chance.below(20);
        }
        10 => {
            let slowest = 1000 + sim.chance.below(250_000);
            sim.delay = (100, slowest);
        }
        11 => {
            let mut owners: Vec<u32> = (1..=count).filter(|_| sim.chance.percent(60)).collect();
            sim.chance.shuffle(&mut owners);
            let observers = sim.lease.observers.clone();
            sim.commit(&owners, &observers);
            for index in 1..=count {
                if sim.chance.percent(60) {
                    sim.inform(index);
                }
            }
        }
        12 => {
            let able = sim.chance.percent(50);
            sim.able(node, able);
        }
        _ => {
            let latest = sim.chance.below(60_000);
            sim.late = (0, latest);
        }
    }
}

fn recover(sim: &mut Sim) {
    sim.heal();
    sim.loss_percent = 0;
    sim.delay = (100, 1500);
    sim.late = (0, 1500);
    let all: Vec<u32> = sim.machines.keys().copied().collect();
    for &index in &all {
        if sim.machines[&index].state != State::Up {
            sim.set(index, State::Up);
        }
        sim.able(index, true);
    }
    sim.inform_all();
    sim.run(ms(2000));
    let has_owners = !sim.lease.owners.is_empty();
    assert_eq!(
        sim.holders().len(),
        usize::from(has_owners),
        "seed {}\n{}",
        sim.seed,
        sim.log.join("\n")
    );
    // An owner that did not take it is asked again after five seconds; then it has settled, too.
    let first: Vec<u32> = sim.lease.owners.iter().copied().take(1).collect();
    sim.until_held_by(&first, ms(12_000));
    sim.run(ms(1500));
    for &index in &all {
        let held = sim.machine(index).node.held()[&ADDRESS].holder;
        let (seed, log) = (sim.seed, sim.log.join("\n"));
        assert_eq!(held, first.first().copied(), "seed {seed}: node {index}\n{log}");
        assert!(sim.machine(index).marks.is_empty(), "seed {seed}: node {index}");
    }
}
