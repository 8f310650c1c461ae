//! The nodes that fit, in the order in which tasks go to them. Placement preferences make a tree of it: each level is
//! evened out over its branches before the next one is looked at (swarmkit manager/scheduler/decision_tree.go).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// The least comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeRank {
    /// Recent failures of the service there.
    pub penalty: usize,
    /// What nobody reserved, where nodes are to be filled up; else 0.
    pub empty: u64,
    pub of_service: usize,
    pub tasks: usize,
    /// The node's place among all.
    pub number: usize,
}

/// Tasks of the service in each branch on the way down, and the node at its end.
type Rank = (Vec<usize>, NodeRank);

#[derive(Debug, Default)]
pub struct Tree {
    /// Tasks of the service on all nodes below, those that do not fit included.
    tasks: usize,
    nodes: BinaryHeap<Reverse<NodeRank>>,
    numbers: BTreeMap<String, usize>,
    branches: Vec<Tree>,
    /// The branches with room, by the best that each has.
    order: BinaryHeap<Reverse<(Rank, usize)>>,
}

impl Tree {
    /// A node with `tasks` of the service, at the end of `branches`; `rank` if it has room.
    pub fn add(&mut self, branches: &[&str], tasks: usize, rank: Option<NodeRank>) {
        self.tasks += tasks;
        let Some((first, rest)) = branches.split_first() else {
            self.nodes.extend(rank.map(Reverse));
            return;
        };
        let number = match self.numbers.get(*first) {
            Some(number) => *number,
            None => {
                self.branches.push(Tree::default());
                self.numbers.insert((*first).to_string(), self.branches.len() - 1);
                self.branches.len() - 1
            }
        };
        self.branches[number].add(rest, tasks, rank);
    }

    /// To be called once after all nodes were added.
    pub fn order(&mut self) {
        for (number, branch) in self.branches.iter_mut().enumerate() {
            branch.order();
            self.order
                .extend(branch.best().map(|best| Reverse((best, number))));
        }
    }

    /// The best below, seen from above.
    fn best(&self) -> Option<Rank> {
        let (mut crowd, rank) = match (self.nodes.peek(), self.order.peek()) {
            (Some(Reverse(rank)), _) => (Vec::new(), *rank),
            (None, Some(Reverse(((crowd, rank), _)))) => (crowd.clone(), *rank),
            (None, None) => return None,
        };
        crowd.insert(0, self.tasks);
        Some((crowd, rank))
    }

    /// Takes the best node; `place` answers its new rank, or nothing if that was its last room. False if no node has room.
    pub fn place(&mut self, place: &mut dyn FnMut(usize) -> Option<NodeRank>) -> bool {
        if let Some(Reverse(rank)) = self.nodes.pop() {
            self.nodes.extend(place(rank.number).map(Reverse));
        } else if let Some(Reverse((_, number))) = self.order.pop() {
            let branch = &mut self.branches[number];
            branch.place(place);
            self.order
                .extend(branch.best().map(|best| Reverse((best, number))));
        } else {
            return false;
        }
        self.tasks += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(number: usize, of_service: usize) -> NodeRank {
        NodeRank {
            penalty: 0,
            empty: 0,
            of_service,
            tasks: of_service,
            number,
        }
    }

    /// Places `count` tasks on nodes that hold `room` each, and says how many each node got.
    fn placed(nodes: &[(&[&str], usize)], count: usize) -> Vec<usize> {
        let mut tree = Tree::default();
        for (number, (branches, room)) in nodes.iter().enumerate() {
            tree.add(branches, 0, (*room > 0).then(|| rank(number, 0)));
        }
        tree.order();
        let mut got = vec![0; nodes.len()];
        for _ in 0..count {
            tree.place(&mut |number| {
                got[number] += 1;
                (got[number] < nodes[number].1).then(|| rank(number, got[number]))
            });
        }
        got
    }

    #[test]
    fn levels_are_evened_out_from_above() {
        let nodes: [(&[&str], usize); 4] = [
            (&["east", "r1"], 9),
            (&["east", "r1"], 9),
            (&["east", "r2"], 9),
            (&["west", "r1"], 9),
        ];
        assert_eq!(placed(&nodes, 8), [1, 1, 2, 4]);
    }

    #[test]
    fn a_full_branch_drops_out() {
        let nodes: [(&[&str], usize); 3] = [(&["east"], 1), (&["west"], 9), (&[""], 0)];
        assert_eq!(placed(&nodes, 5), [1, 4, 0]);
        assert_eq!(placed(&nodes, 50), [1, 9, 0]);
    }
}
