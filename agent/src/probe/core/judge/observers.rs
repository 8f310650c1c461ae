//! Who observes whom: in a small swarm everybody everybody, in a large one a few, chosen by hash.

use std::collections::{BTreeMap, BTreeSet};

/// Observers of each node; swarms of up to one more are small.
pub const MAX_OBSERVERS: usize = 15;

/// The observers of every node. All nodes that know the same indexes come to the same result, and one node that joins
/// or leaves changes few (rendezvous hashing).
pub fn observers(nodes: &BTreeSet<u32>) -> BTreeMap<u32, BTreeSet<u32>> {
    nodes.iter().map(|node| (*node, of(*node, nodes))).collect()
}

fn of(node: u32, nodes: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut others: Vec<(u64, u32)> = nodes
        .iter()
        .filter(|other| **other != node)
        .map(|other| (mix(u64::from(node) << 32 | u64::from(*other)), *other))
        .collect();
    if others.len() > MAX_OBSERVERS {
        others.select_nth_unstable(MAX_OBSERVERS);
        others.truncate(MAX_OBSERVERS);
    }
    others.into_iter().map(|(_, other)| other).collect()
}

/// Finalizer of SplitMix64.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_small_swarm_everybody_observes_everybody() {
        let nodes: BTreeSet<u32> = (1..=16).collect();
        for (node, observers) in observers(&nodes) {
            let others: BTreeSet<u32> = nodes.iter().copied().filter(|other| *other != node).collect();
            assert_eq!(observers, others);
        }
    }

    #[test]
    fn in_a_large_one_the_work_is_spread_and_a_leaving_node_changes_little() {
        let nodes: BTreeSet<u32> = (1..=100).collect();
        let before = observers(&nodes);
        let mut work: BTreeMap<u32, usize> = BTreeMap::new();
        for (node, observers) in &before {
            assert_eq!(observers.len(), MAX_OBSERVERS);
            assert!(!observers.contains(node));
            observers
                .iter()
                .for_each(|other| *work.entry(*other).or_default() += 1);
        }
        assert!(work.values().all(|count| (4..=32).contains(count)), "{work:?}");
        let fewer: BTreeSet<u32> = nodes.iter().copied().filter(|node| *node != 50).collect();
        for (node, observers) in observers(&fewer) {
            let kept = observers.intersection(&before[&node]).count();
            assert!(kept >= MAX_OBSERVERS - 1, "node {node} keeps only {kept}");
        }
    }
}
