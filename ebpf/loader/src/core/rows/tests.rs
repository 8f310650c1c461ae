//! Properties of rows, and the values that never change.

use proptest::prelude::*;

use super::*;

fn candidates(hashes: &[u64], nodes: u32) -> Vec<Candidate> {
    let mut list: Vec<Candidate> = hashes
        .iter()
        .map(|h| Candidate {
            task_hash: *h,
            node: (*h % u64::from(nodes)) as u32,
            draining: false,
        })
        .collect();
    list.sort_by_key(|c| c.task_hash);
    list.dedup_by_key(|c| c.task_hash);
    list
}

/// Ranks as task hashes, so that tables of different sets can be compared.
fn ranks(list: &[Candidate], row: &Row) -> Vec<u64> {
    row.tasks[..RANKS]
        .iter()
        .filter(|i| **i != NO_TASK)
        .map(|i| list[usize::from(*i)].task_hash)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn removing_a_task_moves_nobody_else(hashes in proptest::collection::vec(any::<u64>(), 2..30), seed: u64, at: usize) {
        let before = candidates(&hashes, 3);
        let mut after = before.clone();
        let gone = after.remove(at % before.len()).task_hash;
        for (old, new) in build(seed, 8, &before).iter().zip(build(seed, 8, &after).iter()) {
            let (old, new) = (ranks(&before, old), ranks(&after, new));
            if old[0] == gone {
                // The second rank was the next owner.
                prop_assert_eq!(old.get(1), new.first());
            } else {
                prop_assert_eq!(old[0], new[0]);
            }
        }
    }

    #[test]
    fn a_draining_task_has_the_last_column_and_moves_nobody(hashes in proptest::collection::vec(any::<u64>(), 4..30), seed: u64, at: usize) {
        let before = candidates(&hashes, 3);
        prop_assume!(before.len() >= 4);
        let mut after = before.clone();
        let at = at % after.len();
        after[at].draining = true;
        let gone = after[at].task_hash;
        for (old, new) in build(seed, 8, &before).iter().zip(build(seed, 8, &after).iter()) {
            prop_assert_eq!(usize::from(new.tasks[RANKS]), at);
            let (old, new) = (ranks(&before, old), ranks(&after, new));
            let stay: Vec<u64> = old.into_iter().filter(|task| *task != gone).collect();
            // Whoever stays keeps its place but for the one that was drained before it.
            prop_assert_eq!(&new[..2], &stay[..2]);
        }
    }

    #[test]
    fn one_node_may_die_and_every_row_has_somebody(hashes in proptest::collection::vec(any::<u64>(), 1..30), seed: u64, drained: usize) {
        let mut list = candidates(&hashes, 4);
        let drained = drained % (2 * list.len());
        if let Some(task) = list.get_mut(drained) {
            task.draining = true;
        }
        for row in build(seed, 6, &list) {
            let open = row.tasks.iter().filter(|i| **i != NO_TASK).map(|i| list[usize::from(*i)]).filter(|c| !c.draining);
            let nodes: std::collections::BTreeSet<u32> = open.map(|c| c.node).collect();
            let all: std::collections::BTreeSet<u32> = list.iter().filter(|c| !c.draining).map(|c| c.node).collect();
            prop_assert!(nodes.len() >= 2.min(all.len()));
            if drained >= list.len() {
                // Nobody drains: the last column is for a node of its own.
                let ranks: Vec<u32> = row.tasks[..RANKS].iter().filter(|i| **i != NO_TASK).map(|i| list[usize::from(*i)].node).collect();
                match row.tasks[RANKS] {
                    NO_TASK => prop_assert!(all.iter().all(|node| ranks.contains(node))),
                    index => prop_assert!(!ranks.contains(&list[usize::from(index)].node)),
                }
            }
        }
    }

    #[test]
    fn order_of_input_and_other_seeds(hashes in proptest::collection::vec(any::<u64>(), 3..10)) {
        let list = candidates(&hashes, 3);
        prop_assume!(list.len() >= 3);
        prop_assert_eq!(build(1, 8, &list), build(1, 8, &list));
        prop_assert_ne!(build(1, 8, &list), build(2, 8, &list));
    }
}

#[test]
fn six_tasks_are_balanced() {
    let hashes: Vec<u64> = (1..=6).map(skep_ebpf_common::hash::mix).collect();
    let list = candidates(&hashes, 3);
    let mut owned = [0_usize; 6];
    for row in build(99, 12, &list) {
        owned[usize::from(row.tasks[0])] += 1;
    }
    let mean = 4096 / 6;
    assert!(owned.iter().all(|n| n.abs_diff(mean) < mean / 8), "{owned:?}");
}

#[test]
fn fewer_tasks_than_ranks() {
    assert!(build(1, 4, &[]).iter().all(|row| row.tasks == [NO_TASK; COLUMNS]));
    let one = [Candidate {
        task_hash: 5,
        node: 1,
        draining: true,
    }];
    assert!(
        build(1, 4, &one)
            .iter()
            .all(|row| row.tasks == [NO_TASK, NO_TASK, NO_TASK, 0])
    );
}

#[test]
fn values_never_change() {
    let hashes: Vec<u64> = (1..=5).map(skep_ebpf_common::hash::mix).collect();
    let mut list = candidates(&hashes, 3);
    list[4].draining = true;
    let rows = build(0x1234_5678_9abc_def0, 12, &list);
    let digest = rows
        .iter()
        .flat_map(|r| r.tasks)
        .fold(0_u64, |d, t| skep_ebpf_common::hash::mix(d ^ u64::from(t)));
    assert_eq!(rows[..4].iter().map(|r| r.tasks).collect::<Vec<_>>(), GOLDEN_ROWS);
    assert_eq!(digest, GOLDEN_DIGEST);
}

const GOLDEN_ROWS: [[u16; COLUMNS]; 4] = [[2, 3, 0, 4], [1, 2, 3, 4], [0, 2, 1, 4], [2, 0, 3, 4]];
const GOLDEN_DIGEST: u64 = 0x9b83_35bd_de25_a939;
