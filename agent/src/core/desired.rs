//! What this node is asked to be: the folded assignments.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_control::model::{
    Assignments, AssignmentsKind, Item, ItemKind, Items, NetworkItem, SwarmItem, TaskItem, fold,
};

/// The set of items this node works by, at one index. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// This node's id; empty while it is in no swarm.
    pub node_id: String,
    pub items: Arc<Items>,
    /// Raft index of the set; 0 before the first.
    pub index: u64,
    /// A COMPLETE set arrived in this session. Before that, nothing is deleted because it is missing from `items`.
    pub complete: bool,
}

/// The message does not fit the set this node has: the stream starts anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("assignments apply to index {applies_to}, this node has {have}")]
pub struct Mismatch {
    pub applies_to: u64,
    pub have: u64,
}

impl Desired {
    /// The set after one message of the stream.
    ///
    /// # Errors
    /// [`Mismatch`] when the changes belong to another set, or when no COMPLETE set came first.
    pub fn folded(&self, message: &Assignments) -> Result<Desired, Mismatch> {
        let complete = message.kind == AssignmentsKind::Complete as i32;
        let mismatch = Mismatch {
            applies_to: message.applies_to,
            have: self.index,
        };
        if !complete && (!self.complete || message.applies_to != self.index) {
            return Err(mismatch);
        }
        let mut items = if complete {
            Items::new()
        } else {
            (*self.items).clone()
        };
        fold(&mut items, &message.changes);
        Ok(Desired {
            node_id: self.node_id.clone(),
            items: Arc::new(items),
            index: message.results_in,
            complete: true,
        })
    }

    /// This node's tasks by id.
    pub fn tasks(&self) -> BTreeMap<&str, &TaskItem> {
        let tasks = self.items.values().filter_map(|item| match &item.kind {
            Some(ItemKind::Task(task)) => Some((task.id.as_str(), task)),
            _ => None,
        });
        tasks.collect()
    }

    pub fn network(&self, id: &str) -> Option<&NetworkItem> {
        match self.kind(&format!("network/{id}")) {
            Some(ItemKind::Network(network)) => Some(network),
            _ => None,
        }
    }

    pub fn swarm(&self) -> Option<&SwarmItem> {
        match self.kind("swarm") {
            Some(ItemKind::Swarm(swarm)) => Some(swarm),
            _ => None,
        }
    }

    /// Address by which the data plane reaches a node.
    pub fn underlay_of(&self, node_id: &str) -> Option<&str> {
        match self.kind(&format!("peer/{node_id}")) {
            Some(ItemKind::Peer(peer)) => Some(&peer.underlay),
            _ => None,
        }
    }

    /// The managers have this node's session and say so.
    pub fn is_ready(&self) -> bool {
        match self.kind(&format!("peer/{}", self.node_id)) {
            Some(ItemKind::Peer(peer)) => self.complete && peer.ready,
            _ => false,
        }
    }

    fn kind(&self, key: &str) -> Option<&ItemKind> {
        self.items.get(key).and_then(|item: &Item| item.kind.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use skep_control::model::diff;

    use super::*;

    fn items(names: &[u8]) -> Items {
        let item = |n: &u8| {
            let network = NetworkItem {
                network_id: format!("n{}", n % 8),
                vni: u32::from(*n),
                ..NetworkItem::default()
            };
            let kind = ItemKind::Network(network);
            (skep_control::model::item_key(&kind), Item { kind: Some(kind) })
        };
        names.iter().map(item).collect()
    }

    fn message(kind: AssignmentsKind, from: u64, to: u64, old: &Items, new: &Items) -> Assignments {
        Assignments {
            kind: kind as i32,
            applies_to: from,
            results_in: to,
            changes: diff(old, new),
        }
    }

    proptest! {
        #[test]
        fn incremental_messages_fold_to_the_complete_set(steps in prop::collection::vec(prop::collection::vec(0u8..32, 0..6), 1..6)) {
            let sets: Vec<Items> = steps.iter().map(|s| items(s)).collect();
            let first = message(AssignmentsKind::Complete, 0, 1, &Items::new(), &sets[0]);
            let mut desired = Desired::default().folded(&first).unwrap();
            for (n, pair) in sets.windows(2).enumerate() {
                let n = n as u64 + 1;
                let next = message(AssignmentsKind::Incremental, n, n + 1, &pair[0], &pair[1]);
                desired = desired.folded(&next).unwrap();
            }
            prop_assert_eq!(&*desired.items, sets.last().unwrap());
            prop_assert_eq!(desired.index, sets.len() as u64);
        }
    }

    #[test]
    fn a_gap_in_the_stream_is_refused() {
        let complete = message(AssignmentsKind::Complete, 0, 5, &Items::new(), &items(&[1]));
        let desired = Desired::default().folded(&complete).unwrap();
        let gap = message(AssignmentsKind::Incremental, 6, 7, &items(&[1]), &items(&[2]));
        assert_eq!(
            desired.folded(&gap),
            Err(Mismatch {
                applies_to: 6,
                have: 5
            })
        );
    }

    #[test]
    fn changes_before_a_complete_set_are_refused() {
        let ledger = Desired {
            index: 5,
            ..Desired::default()
        };
        let change = message(AssignmentsKind::Incremental, 5, 6, &Items::new(), &items(&[1]));
        assert!(ledger.folded(&change).is_err());
    }
}
