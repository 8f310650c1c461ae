//! Packets on their way through real rows, from node to node, while tables differ between nodes.

use std::collections::BTreeSet;

use proptest::prelude::*;
use skep_ebpf_common::{ASKED, NO_TASK, RANKS, Row};
use skep_ebpf_programs::mesh::{Choice, Known, MAX_HOPS, Opening, Rank, Ranks, Tally, choose};

use super::{Candidate, build};

const SEED: u64 = 7;
const ROWS_LOG2: u8 = 5;

/// A published port's tasks with their rows.
struct Table {
    tasks: Vec<Candidate>,
    rows: Vec<Row>,
}

impl Table {
    fn new(mut tasks: Vec<Candidate>) -> Self {
        tasks.sort_by_key(|task| task.task_hash);
        let rows = build(SEED, ROWS_LOG2, &tasks);
        Self { tasks, rows }
    }

    fn task(&self, row: usize, column: usize) -> Option<Candidate> {
        let index = self.rows[row].tasks[column];
        (index != NO_TASK).then(|| self.tasks[usize::from(index)])
    }
}

struct View<'a> {
    table: &'a Table,
    row: usize,
    me: u32,
    owner: Option<u64>,
    dead: Option<u32>,
    entry: Option<u32>,
    asked: &'a [u32],
    tally: Tally,
    /// Nodes that note the flow as another's.
    elsewhere: &'a BTreeSet<u32>,
}

impl Ranks for View<'_> {
    fn rank(&mut self, column: usize) -> Option<Rank> {
        self.table.task(self.row, column).map(|task| Rank {
            local: task.node == self.me,
            draining: task.draining,
        })
    }
    fn alive(&mut self, column: usize) -> bool {
        let task = self.table.task(self.row, column);
        task.is_some_and(|task| Some(task.node) != self.dead)
    }
    fn asked(&mut self, column: usize) -> bool {
        let task = self.table.task(self.row, column);
        task.is_some_and(|task| Some(task.node) == self.entry || self.asked.contains(&task.node))
    }
    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }
    fn known(&mut self, column: usize) -> Known {
        let task = self.table.task(self.row, column);
        if task.is_some_and(|task| Some(task.task_hash) == self.owner) {
            Known::Yes
        } else if self.elsewhere.contains(&self.me) {
            Known::Elsewhere
        } else {
            Known::No
        }
    }
}

/// Where a packet ends up: the task's hash. `table`: the one that a node has.
fn walk<'a>(
    table: impl Fn(u32) -> &'a Table,
    row: usize,
    entry: u32,
    owner: Option<u64>,
    dead: Option<u32>,
    opens: bool,
) -> Option<u64> {
    let opening = if opens { Opening::Yes } else { Opening::No };
    walk_of(table, row, entry, owner, dead, opening, &mut BTreeSet::new())
}

/// The same for a packet of any kind. `elsewhere`: nodes that noted its flow as another's.
fn walk_of<'a>(
    table: impl Fn(u32) -> &'a Table,
    row: usize,
    entry: u32,
    owner: Option<u64>,
    dead: Option<u32>,
    kind: Opening,
    elsewhere: &mut BTreeSet<u32>,
) -> Option<u64> {
    let (mut opening, mut first) = (kind, true);
    let (mut me, mut asked, mut entry_asked) = (entry, Vec::new(), None);
    for hop in 0..=MAX_HOPS {
        let table = table(me);
        let mut view = View {
            table,
            row,
            me,
            owner,
            dead,
            entry: entry_asked,
            asked: &asked,
            tally: Tally::default(),
            elsewhere,
        };
        let choice = choose(&mut view, hop, opening);
        let column = match choice {
            Choice::Deliver(column) | Choice::Open(column) => {
                return table.task(row, column).map(|task| task.task_hash);
            }
            Choice::Forward(column) => column,
            Choice::Settle(column) => {
                opening = Opening::Yes;
                elsewhere.clear();
                column
            }
            Choice::PassOn(column) | Choice::Ask(column, _) => {
                if let Choice::Ask(_, here) = choice {
                    opening = Opening::Asking;
                    if here.is_some() && std::mem::replace(&mut first, false) {
                        elsewhere.insert(me);
                    }
                }
                match hop {
                    0 => entry_asked = Some(me),
                    _ if asked.len() < ASKED => asked.push(me),
                    _ => {}
                }
                column
            }
            Choice::Nobody | Choice::Collision => return None,
        };
        me = table.task(row, column).expect("a task").node;
    }
    panic!("forwarded without end");
}

fn tasks(hashes: &[u64], nodes: u32) -> Vec<Candidate> {
    let mut seen = BTreeSet::new();
    hashes
        .iter()
        .filter(|hash| seen.insert(**hash))
        .map(|hash| Candidate {
            task_hash: *hash,
            node: 1 + (*hash % u64::from(nodes)) as u32,
            draining: false,
        })
        .collect()
}

/// While a task drains and the best three are on one node, the third of them gives way to a task elsewhere: the bargain of
/// `fill`.
fn gave_way(table: &Table, row: usize) -> bool {
    let node = |column| table.task(row, column).map(|task| task.node);
    let drains = table.task(row, RANKS).is_some_and(|task| task.draining);
    drains && node(0) == node(1) && node(2) != node(0)
}

/// For every row and entry: a flow that began while all nodes had `before` finds its task while each node has `before` or
/// `after` (bit `node` of `newer`), unless that task is not in `after`.
fn flows_find_their_tasks(
    before: &Table,
    after: &Table,
    newer: u32,
    nodes: u32,
) -> Result<(), TestCaseError> {
    let mixed = |node: u32| if newer >> node & 1 == 0 { before } else { after };
    for row in 0..before.rows.len() {
        let Some(owner) = walk(|_| before, row, 1, None, None, true) else {
            continue;
        };
        let stays = after.tasks.iter().any(|task| task.task_hash == owner);
        if !stays || gave_way(after, row) {
            continue;
        }
        for entry in 1..=nodes {
            let found = walk(mixed, row, entry, Some(owner), None, false);
            prop_assert_eq!(found, Some(owner), "row {} entered at {}", row, entry);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn two_tasks_more_while_the_entry_changes(hashes in prop::collection::vec(any::<u64>(), 3..12), nodes in 2_u32..6, newer: u32) {
        let all = tasks(&hashes, nodes);
        prop_assume!(all.len() >= 3);
        let before = Table::new(all[2..].to_vec());
        flows_find_their_tasks(&before, &Table::new(all), newer, nodes)?;
    }

    #[test]
    fn fewer_tasks_while_the_entry_changes(hashes in prop::collection::vec(any::<u64>(), 3..12), nodes in 2_u32..6, newer: u32, drains: bool) {
        let all = tasks(&hashes, nodes);
        prop_assume!(all.len() >= 3);
        let mut after = all.clone();
        if drains {
            after[0].draining = true;
        } else {
            after.remove(0);
        }
        flows_find_their_tasks(&Table::new(all), &Table::new(after), newer, nodes)?;
    }

    #[test]
    fn two_more_and_one_drains(hashes in prop::collection::vec(any::<u64>(), 4..12), nodes in 2_u32..6, newer: u32) {
        let all = tasks(&hashes, nodes);
        prop_assume!(all.len() >= 4);
        let before = Table::new(all[2..].to_vec());
        let mut after = all.clone();
        after[2].draining = true;
        let after = Table::new(after);
        flows_find_their_tasks(&before, &after, newer, nodes)?;
    }

    #[test]
    fn a_new_flow_has_a_task_though_a_node_is_gone(hashes in prop::collection::vec(any::<u64>(), 1..12), nodes in 2_u32..6, dead in 1_u32..6) {
        let table = Table::new(tasks(&hashes, nodes));
        prop_assume!(table.tasks.iter().any(|task| task.node != dead));
        for row in 0..table.rows.len() {
            for entry in (1..=nodes).filter(|entry| *entry != dead) {
                let found = walk(|_| &table, row, entry, None, Some(dead), true);
                let task = table.tasks.iter().find(|task| Some(task.task_hash) == found);
                prop_assert!(task.is_some_and(|task| task.node != dead), "row {row} entered at {entry}: {found:?}");
            }
        }
    }

    #[test]
    fn a_new_flow_has_a_task_while_tables_differ(hashes in prop::collection::vec(any::<u64>(), 2..12), nodes in 2_u32..6, newer: u32) {
        let all = tasks(&hashes, nodes);
        prop_assume!(all.len() >= 2);
        let (before, after) = (Table::new(all[1..].to_vec()), Table::new(all.clone()));
        let mixed = |node: u32| if newer >> node & 1 == 0 { &before } else { &after };
        for row in 0..before.rows.len() {
            for entry in 1..=nodes {
                prop_assert!(walk(mixed, row, entry, None, None, true).is_some(), "row {} entered at {}", row, entry);
            }
        }
    }

    #[test]
    fn datagrams_find_their_task_and_new_ones_the_first_rank(hashes in prop::collection::vec(any::<u64>(), 3..12), nodes in 2_u32..6, newer: u32) {
        let all = tasks(&hashes, nodes);
        prop_assume!(all.len() >= 3);
        let (before, after) = (Table::new(all[2..].to_vec()), Table::new(all));
        let mixed = |node: u32| if newer >> node & 1 == 0 { &before } else { &after };
        for (row, entry) in (0..before.rows.len()).flat_map(|row| (1..=nodes).map(move |entry| (row, entry))) {
            let owner = walk(|_| &before, row, 1, None, None, true);
            let mut elsewhere = BTreeSet::new();
            // While tables change, when they are new everywhere, and when they are new no more.
            for (kind, all_new) in [(Opening::Asking, false), (Opening::Asking, true), (Opening::Yes, true)] {
                let table = |node| if all_new { &after } else { mixed(node) };
                let found = walk_of(table, row, entry, owner, None, kind, &mut elsewhere);
                prop_assert_eq!(found, owner, "row {} entered at {}", row, entry);
            }
            let opened = walk_of(|_| &after, row, entry, None, None, Opening::Asking, &mut BTreeSet::new());
            prop_assert_eq!(opened, after.task(row, 0).map(|task| task.task_hash));
        }
    }

    #[test]
    fn a_flow_nobody_knows_is_refused(hashes in prop::collection::vec(any::<u64>(), 0..12), nodes in 2_u32..6, newer: u32, dead in 0_u32..6) {
        let all = tasks(&hashes, nodes);
        let (before, after) = (Table::new(all.iter().skip(2).copied().collect()), Table::new(all.clone()));
        let mixed = |node: u32| if newer >> node & 1 == 0 { &before } else { &after };
        for row in 0..before.rows.len() {
            for entry in 1..=nodes {
                prop_assert_eq!(walk(mixed, row, entry, None, Some(dead), false), None);
            }
        }
    }
}

/// Six tasks, seven, six again, over three nodes, each with any of the three tables; flows of any time.
#[test]
fn six_seven_six() {
    let hashes: Vec<u64> = (1..=7).map(skep_ebpf_common::hash::mix).collect();
    let spread: Vec<Candidate> = hashes
        .iter()
        .zip(0_u32..)
        .map(|(hash, at)| Candidate {
            task_hash: *hash,
            node: 1 + at % 3,
            draining: false,
        })
        .collect();
    let seven = Table::new(spread.clone());
    let mut draining = spread.clone();
    draining[6].draining = true;
    let draining = Table::new(draining);
    let six = Table::new(spread[..6].to_vec());
    let tables = [&six, &seven, &draining];
    for choice in 0..27_usize {
        let of = |node: u32| tables[choice / 3_usize.pow(node - 1) % 3];
        for (row, began) in (0..six.rows.len()).flat_map(|row| tables.map(|table| (row, table))) {
            let owner = walk(|_| began, row, 1, None, None, true).expect("a task");
            // The seventh is known to no table of six; its flows end with it.
            if owner == spread[6].task_hash {
                continue;
            }
            for entry in 1..=3 {
                assert_eq!(walk(of, row, entry, Some(owner), None, false), Some(owner));
            }
        }
    }
}
