//! Properties of the ranking of ingress addresses' owners.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::world::*;
use crate::model::*;

/// A swarm of `nodes` nodes, of which m1 is drained, and `addresses` addresses that all of the others may hold.
fn swarm(nodes: usize, addresses: usize) -> World {
    let mut world = World::new();
    for n in 0..nodes {
        world.apply(Change::CreateNode(CreateNode {
            node: node(&format!("n{n:02}")),
        }));
    }
    for n in 0..addresses {
        add(&mut world, n);
    }
    world.plan();
    world
}

fn add(world: &mut World, n: usize) {
    let applied = world.apply(Change::CreateIngressAddress(CreateIngressAddress {
        id: format!("a{n:02}"),
        spec: IngressAddressSpec {
            address: format!("192.168.50.{}/24", 100 + n),
            ..Default::default()
        },
    }));
    assert_eq!(applied.refused, None);
}

fn set_state(world: &mut World, id: &str, state: NodeState) {
    world.apply(Change::ReportNode(ReportNode {
        id: id.to_string(),
        state: Some(state as i32),
        ..Default::default()
    }));
}

fn name(world: &World, index: u32) -> String {
    let node = world.state.nodes.values().find(|n| n.index == index);
    node.map(|n| n.id.clone()).expect("an owner that is no node")
}

fn firsts(world: &World) -> BTreeMap<String, String> {
    let first = |a: &IngressAddress| Some((a.id.clone(), name(world, *a.owners.first()?)));
    world
        .state
        .ingress_addresses
        .values()
        .filter_map(|a| first(a))
        .collect()
}

/// How many addresses each of the nodes has, the most and the least.
fn extremes(world: &World, nodes: &[String]) -> (usize, usize) {
    let firsts = firsts(world);
    let count = |node: &String| firsts.values().filter(|first| *first == node).count();
    let counts: Vec<usize> = nodes.iter().map(count).collect();
    let (most, least) = (counts.iter().max(), counts.iter().min());
    (most.copied().unwrap_or(0), least.copied().unwrap_or(0))
}

fn living(world: &World) -> Vec<String> {
    let fit = |n: &&std::sync::Arc<Node>| n.state() == NodeState::Ready && n.id != "m1";
    world
        .state
        .nodes
        .values()
        .filter(fit)
        .map(|n| n.id.clone())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever comes and goes: addresses are spread, and one that need not move does not.
    #[test]
    fn spread_and_calm(
        nodes in 1usize..12,
        addresses in 1usize..12,
        falls in prop::collection::vec((any::<Index>(), any::<bool>()), 0..12),
    ) {
        let mut world = swarm(nodes, addresses);
        for (index, up) in falls {
            let id = format!("n{:02}", index.index(nodes));
            let before = firsts(&world);
            set_state(&mut world, &id, if up { NodeState::Ready } else { NodeState::Down });
            world.plan();
            let living = living(&world);
            let after = firsts(&world);
            if living.is_empty() {
                prop_assert_eq!(before, after, "with nobody in reach, something moved");
                continue;
            }
            let (most, least) = extremes(&world, &living);
            prop_assert!(most - least <= 1, "{:?}", after);
            prop_assert!(after.values().all(|first| living.contains(first)));
            prop_assert_eq!(after.len(), addresses);
            // As many as must: those of a node that fell, or those that a node lacks which came.
            let moved = after.iter().filter(|(id, first)| before.get(*id) != Some(*first));
            let of_it = |firsts: &BTreeMap<String, String>| firsts.values().filter(|f| **f == id).count();
            let due = of_it(&before).max(of_it(&after));
            let moved = moved.count();
            prop_assert!(moved <= 2 * due, "{} moved, {} were due", moved, due);
            if of_it(&before) == of_it(&after) {
                prop_assert_eq!(moved, 0);
            }
        }
    }

    /// The node that has the address by the old ranking once the first is dead is the new first, unless the spread says otherwise.
    #[test]
    fn the_next_in_rank_inherits(nodes in 2usize..9, addresses in 1usize..9, dead in any::<Index>()) {
        let mut world = swarm(nodes, addresses);
        let dead = format!("n{:02}", dead.index(nodes));
        let heirs: BTreeMap<String, String> = world.state.ingress_addresses.values().map(|a| {
            let heir = a.owners.iter().map(|o| name(&world, *o)).find(|o| *o != dead);
            (a.id.clone(), heir.expect("no heir"))
        }).collect();
        let living: Vec<String> = living(&world).into_iter().filter(|n| *n != dead).collect();
        let count = |node: &String| heirs.values().filter(|heir| *heir == node).count();
        let counts: Vec<usize> = living.iter().map(count).collect();
        let even = counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0) <= 1;
        set_state(&mut world, &dead, NodeState::Down);
        world.plan();
        if even {
            prop_assert_eq!(firsts(&world), heirs);
        }
    }

    /// A new observer comes for one that fell while most others are there, never by a minority's word.
    #[test]
    fn observers_are_replaced_by_a_majority_only(nodes in 1usize..12, downs in prop::collection::vec(any::<Index>(), 0..12)) {
        let mut world = swarm(nodes, 1);
        let observers = |world: &World| world.state.ingress_addresses["a00"].observers.clone();
        let is_ready = |world: &World, index: &u32| {
            world.state.nodes.values().any(|n| n.index == *index && n.state() == NodeState::Ready)
        };
        for down in downs {
            let before = observers(&world);
            set_state(&mut world, &format!("n{:02}", down.index(nodes)), NodeState::Down);
            world.plan();
            let after = observers(&world);
            let alive = before.iter().filter(|o| is_ready(&world, o)).count();
            if alive * 2 > before.len() {
                prop_assert!(after.iter().all(|o| is_ready(&world, o)));
            } else {
                prop_assert_eq!(before, after);
            }
        }
    }
}
