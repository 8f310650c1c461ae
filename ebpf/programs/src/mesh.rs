//! Which task takes a packet of a published port: the ranks of its row, seen from one node.

use skep_ebpf_common::{ASKED, COLUMNS};

/// How often a mesh packet is sent from node to node before it is refused: the nodes of a row each once, and one more whose
/// table is older or newer.
pub const MAX_HOPS: u8 = COLUMNS as u8 + 1;

/// One column of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    pub local: bool,
    pub draining: bool,
}

/// What this node knows about the flow at a local task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    No,
    /// The task has this very flow.
    Yes,
    /// The task has a flow with the same addresses and ports that was dialed differently.
    Occupied,
    /// It is noted as another node's.
    Elsewhere,
}

/// Can the packet begin a flow?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    No,
    Yes,
    /// Once no other rank knows its flow: packets of UDP all look alike, and the table is new.
    Asking,
}

/// The row of one packet; answers are looked up only when asked for.
pub trait Ranks {
    fn rank(&mut self, column: usize) -> Option<Rank>;
    /// Is the node of this (remote) rank reachable?
    fn alive(&mut self, column: usize) -> bool;
    /// Has the node of this (remote) rank had the packet already?
    fn asked(&mut self, column: usize) -> bool;
    fn known(&mut self, column: usize) -> Known;
    fn tally(&mut self) -> &mut Tally;
}

/// What [`choose`] found so far. Volatile, so that in the kernel it lies in memory whose contents the verifier does not follow:
/// it would walk through the next column once for every way through the one before.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Tally([u8; 4]);

const OPEN: usize = 0;
const ONWARD: usize = 1;
const OCCUPIED: usize = 2;
const ASKS: usize = 3;

impl Tally {
    /// One more than the column; 0: none yet.
    #[inline(always)]
    fn get(&self, slot: usize) -> u8 {
        // SAFETY: a reference is valid to read through.
        unsafe { core::ptr::read_volatile(&self.0[slot]) }
    }

    #[inline(always)]
    fn set(&mut self, slot: usize, value: u8) {
        // SAFETY: a reference is valid to write through.
        unsafe { core::ptr::write_volatile(&mut self.0[slot], value) }
    }

    #[inline(always)]
    fn set_column(&mut self, slot: usize, column: usize) {
        self.set(slot, column as u8 + 1);
    }

    #[inline(always)]
    fn column(&self, slot: usize) -> Option<usize> {
        usize::from(self.get(slot)).checked_sub(1)
    }
}

/// What to do with the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// A local task's, of a flow it has.
    Deliver(usize),
    /// A local task's, of a new flow.
    Open(usize),
    /// The task's node decides; this node has not looked among its own tasks.
    Forward(usize),
    /// The task's node decides; the flow is none of this node's tasks'.
    PassOn(usize),
    /// As `PassOn`, to a node that shall not open a flow; the second column is the task that would have opened it here.
    Ask(usize, Option<usize>),
    /// Nobody knows the flow: the task's node shall open it.
    Settle(usize),
    /// No task that may take it.
    Nobody,
    /// Only tasks that cannot tell it from another flow.
    Collision,
}

/// `hop`: how often the packet was sent on. 0: this is the node the client came in through; it keeps no state, so whoever is
/// first decides. A packet of a flow nobody here knows goes to the best rank that was not asked yet: tables of nodes differ
/// for a moment, so its place in the row does not say who had it before.
#[inline(always)]
pub fn choose<R: Ranks>(ranks: &mut R, hop: u8, opening: Opening) -> Choice {
    for (slot, value) in [
        (OPEN, 0),
        (ONWARD, 0),
        (OCCUPIED, 0),
        (ASKS, (opening == Opening::Asking) as u8),
    ] {
        ranks.tally().set(slot, value);
    }
    let mut seen_local = false;
    for column in 0..COLUMNS {
        let Some(rank) = ranks.rank(column) else { continue };
        if rank.local {
            match ranks.known(column) {
                Known::Yes => return Choice::Deliver(column),
                Known::Occupied => ranks.tally().set(OCCUPIED, 1),
                known => {
                    if known == Known::Elsewhere && opening == Opening::Yes {
                        ranks.tally().set(ASKS, 1);
                    }
                    if opening != Opening::No && !rank.draining && ranks.tally().get(OPEN) == 0 {
                        ranks.tally().set_column(OPEN, column);
                    }
                }
            }
            seen_local = true;
            continue;
        }
        // A draining task, always in the last column, may know a flow, and opens none.
        let may = !rank.draining || opening == Opening::No || ranks.tally().get(ASKS) != 0;
        if may && ranks.tally().get(ONWARD) == 0 && ranks.alive(column) && (hop == 0 || !ranks.asked(column))
        {
            if hop == 0 && !seen_local {
                return Choice::Forward(column);
            }
            ranks.tally().set_column(ONWARD, column);
        }
    }
    let tally = *ranks.tally();
    let onward = tally.column(ONWARD).filter(|_| hop < MAX_HOPS);
    match (tally.get(ASKS) != 0, tally.column(OPEN), onward) {
        (true, open, Some(column)) => Choice::Ask(column, open),
        (true, _, None) => settle(ranks, hop),
        (false, Some(column), _) => Choice::Open(column),
        (false, None, Some(column)) => Choice::PassOn(column),
        _ if tally.get(OCCUPIED) != 0 => Choice::Collision,
        _ => Choice::Nobody,
    }
}

/// Everybody was asked, so it is a new flow, for the first rank.
#[inline(always)]
fn settle<R: Ranks>(ranks: &mut R, hop: u8) -> Choice {
    for column in 0..COLUMNS {
        match ranks.rank(column) {
            Some(rank) if rank.draining => {}
            Some(rank) if rank.local => return Choice::Open(column),
            Some(_) if hop < MAX_HOPS && ranks.alive(column) => return Choice::Settle(column),
            _ => {}
        }
    }
    Choice::Nobody
}

/// Notes a node among those asked. Without room the packet may come there again, and its hops end it.
#[inline(always)]
pub fn note(asked: &mut [u8; ASKED], fingerprint: u8) {
    for slot in asked {
        if *slot == 0 {
            *slot = fingerprint;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[derive(Clone, Copy)]
    struct Column {
        node: u32,
        draining: bool,
        known: Known,
    }

    struct View<'a> {
        me: u32,
        dead: u32,
        asked: &'a [u32],
        tally: Tally,
        row: &'a [Option<Column>; COLUMNS],
    }

    impl Ranks for View<'_> {
        fn rank(&mut self, column: usize) -> Option<Rank> {
            self.row[column].map(|c| Rank {
                local: c.node == self.me,
                draining: c.draining,
            })
        }
        fn alive(&mut self, column: usize) -> bool {
            self.row[column].is_some_and(|c| c.node != self.dead)
        }
        fn tally(&mut self) -> &mut Tally {
            &mut self.tally
        }
        fn asked(&mut self, column: usize) -> bool {
            self.row[column].is_some_and(|c| self.asked.contains(&c.node))
        }
        fn known(&mut self, column: usize) -> Known {
            self.row[column].map_or(Known::No, |c| c.known)
        }
    }

    fn row(nodes: [u32; 3], owner: Option<usize>) -> [Option<Column>; COLUMNS] {
        let mut row = [None; COLUMNS];
        for (column, node) in nodes.into_iter().enumerate() {
            let known = if owner == Some(column) {
                Known::Yes
            } else {
                Known::No
            };
            row[column] = Some(Column {
                node,
                draining: false,
                known,
            });
        }
        row
    }

    /// Follows a packet from node to node until someone takes it; `None`: refused.
    fn walk(row: &[Option<Column>; COLUMNS], entry: u32, dead: u32, opens: bool) -> Option<(usize, u8)> {
        let (mut me, mut asked) = (entry, Vec::new());
        for hop in 0..=MAX_HOPS {
            let choice = choose(
                &mut View {
                    me,
                    dead,
                    asked: &asked,
                    tally: Tally::default(),
                    row,
                },
                hop,
                if opens { Opening::Yes } else { Opening::No },
            );
            if matches!(choice, Choice::PassOn(_)) {
                asked.push(me);
            }
            match choice {
                Choice::Deliver(column) | Choice::Open(column) => return Some((column, hop)),
                Choice::Forward(column) | Choice::PassOn(column) => me = row[column].expect("a task").node,
                _ => return None,
            }
        }
        panic!("forwarded without end");
    }

    proptest! {
        #[test]
        fn a_known_flow_is_found_from_every_entry(nodes: [u8; 3], owner in 0_usize..3, entry: u8) {
            let nodes = nodes.map(|n| u32::from(n % 4));
            let row = row(nodes, Some(owner));
            let found = walk(&row, u32::from(entry % 4), 99, false);
            prop_assert_eq!(found.map(|f| row[f.0].unwrap().node), Some(nodes[owner]));
            prop_assert_eq!(found.map(|f| f.0), Some(owner));
        }

        #[test]
        fn a_new_flow_goes_to_the_same_task_from_every_entry(nodes: [u8; 3], a: u8, b: u8) {
            let row = row(nodes.map(|n| u32::from(n % 4)), None);
            let from_a = walk(&row, u32::from(a % 4), 99, true).map(|f| f.0);
            let from_b = walk(&row, u32::from(b % 4), 99, true).map(|f| f.0);
            prop_assert_eq!(from_a, Some(0));
            prop_assert_eq!(from_b, Some(0));
        }

        #[test]
        fn a_dead_node_is_passed_over(nodes: [u8; 3], entry: u8) {
            let nodes = nodes.map(|n| u32::from(n % 3));
            let dead = 0;
            let entry = 1 + u32::from(entry % 2);
            let found = walk(&row(nodes, None), entry, dead, true);
            prop_assert_eq!(found.map(|f| f.0), nodes.iter().position(|n| *n != dead));
        }

        #[test]
        fn an_unknown_flow_is_refused_in_the_end(nodes: [u8; 3], entry: u8) {
            prop_assert_eq!(walk(&row(nodes.map(|n| u32::from(n % 4)), None), u32::from(entry % 4), 99, false), None);
        }
    }

    #[test]
    fn a_draining_task_keeps_its_flows_and_gets_no_new_ones() {
        let mut row = row([1, 2, 3], Some(2));
        row[2].as_mut().expect("a task").draining = true;
        assert_eq!(walk(&row, 1, 99, false), Some((2, 2)));
        assert_eq!(walk(&row, 3, 99, false).map(|f| f.0), Some(2));
        let only = [row[2], None, None, None];
        assert_eq!(walk(&only, 1, 99, true), None);
    }

    #[test]
    fn two_dialed_ports_of_one_task_do_not_mix() {
        let column = |node, known| {
            Some(Column {
                node,
                draining: false,
                known,
            })
        };
        let row = [column(1, Known::Occupied), column(1, Known::No), None, None];
        assert_eq!(walk(&row, 1, 99, true), Some((1, 0)));
        let alone = [column(1, Known::Occupied), None, None, None];
        assert_eq!(
            choose(
                &mut View {
                    me: 1,
                    dead: 99,
                    asked: &[],
                    tally: Tally::default(),
                    row: &alone
                },
                0,
                Opening::Yes
            ),
            Choice::Collision
        );
    }
}
