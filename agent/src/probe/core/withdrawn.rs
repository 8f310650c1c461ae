//! Which tasks their own nodes say have ended, in pieces that fit datagrams.

use std::collections::{BTreeMap, BTreeSet};

use super::message::Part;
use super::message::part::MAX_HASHES;

/// This node's own list, and those of the others.
#[derive(Debug, Default)]
pub struct Withdrawn {
    generation: u64,
    own: BTreeSet<u64>,
    others: BTreeMap<u32, Told>,
}

#[derive(Debug, Default)]
struct Told {
    boot: u64,
    generation: u64,
    pieces: BTreeMap<u16, Vec<u64>>,
    /// The latest list that came whole.
    whole: BTreeSet<u64>,
}

impl Withdrawn {
    /// Takes over this node's list; true when it is new.
    pub fn set(&mut self, own: &BTreeSet<u64>) -> bool {
        let changed = self.own != *own;
        if changed {
            self.own.clone_from(own);
            self.generation += 1;
        }
        changed
    }

    /// This node's list, for another one.
    pub fn parts(&self) -> Vec<Part> {
        let hashes: Vec<u64> = self.own.iter().copied().collect();
        let mut lists: Vec<&[u64]> = hashes.chunks(MAX_HASHES).collect();
        if lists.is_empty() {
            lists.push(&[]);
        }
        // More tasks of one node than fit in 65535 pieces do not exist.
        let pieces = u16::try_from(lists.len()).unwrap_or(u16::MAX);
        let piece = |(hashes, piece): (&&[u64], u16)| Part::Withdrawn {
            generation: self.generation,
            piece,
            pieces,
            hashes: hashes.to_vec(),
        };
        lists.iter().zip(0..pieces).map(piece).collect()
    }

    /// Takes in a piece of another node's list; true when the list is whole by it, and new. `boot`: the life of the
    /// other's agent.
    pub fn receive(&mut self, from: u32, boot: u64, part: &Part) -> bool {
        let Part::Withdrawn {
            generation,
            piece,
            pieces,
            hashes,
        } = part
        else {
            return false;
        };
        let told = self.others.entry(from).or_default();
        if (told.boot, told.generation) != (boot, *generation) {
            told.boot = boot;
            told.generation = *generation;
            told.pieces.clear();
        }
        told.pieces.insert(*piece, hashes.clone());
        let is_whole = (0..*pieces).all(|piece| told.pieces.contains_key(&piece));
        let all = || (0..*pieces).filter_map(|piece| told.pieces.get(&piece)).flatten();
        let whole: BTreeSet<u64> = all().copied().collect();
        let is_new = is_whole && whole != told.whole;
        if is_new {
            told.whole = whole;
        }
        is_new
    }

    /// Forgets the lists of nodes that are no peers; true when there was one.
    pub fn retain(&mut self, peers: &BTreeSet<u32>) -> bool {
        let before = self.others.len();
        self.others.retain(|node, _| peers.contains(node));
        self.others.len() != before
    }

    /// By node: hashes of its tasks that it says have ended. Nodes without any are absent.
    pub fn others(&self) -> BTreeMap<u32, BTreeSet<u64>> {
        self.others
            .iter()
            .filter(|(_, told)| !told.whole.is_empty())
            .map(|(node, told)| (*node, told.whole.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(own: &BTreeSet<u64>) -> Withdrawn {
        let mut teller = Withdrawn::default();
        teller.set(own);
        teller
    }

    #[test]
    fn a_list_replaces_the_one_before_and_a_restarted_node_starts_anew() {
        let mut teller = told(&BTreeSet::from([1, 2]));
        let mut hearer = Withdrawn::default();
        assert!(hearer.receive(7, 100, &teller.parts()[0]));
        assert!(!hearer.receive(7, 100, &teller.parts()[0]), "nothing new");
        assert_eq!(hearer.others(), BTreeMap::from([(7, BTreeSet::from([1, 2]))]));
        teller.set(&BTreeSet::new());
        assert!(hearer.receive(7, 100, &teller.parts()[0]));
        assert_eq!(hearer.others(), BTreeMap::new());
        assert!(hearer.receive(7, 101, &told(&BTreeSet::from([3])).parts()[0]));
        assert_eq!(hearer.others(), BTreeMap::from([(7, BTreeSet::from([3]))]));
        assert!(hearer.retain(&BTreeSet::new()));
        assert_eq!(hearer.others(), BTreeMap::new());
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_make_the_list(
            own in proptest::collection::btree_set(any::<u64>(), 0..400), order in any::<prop::sample::Index>(),
        ) {
            let mut parts = told(&own).parts();
            let middle = order.index(parts.len());
            parts.rotate_left(middle);
            let mut hearer = Withdrawn::default();
            let whole = parts.iter().filter(|part| hearer.receive(7, 1, part)).count();
            prop_assert_eq!(whole, usize::from(!own.is_empty()));
            prop_assert_eq!(hearer.others().remove(&7).unwrap_or_default(), own);
        }
    }
}
