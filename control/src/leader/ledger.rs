//! What one session was sent and has acknowledged, and what follows for tasks that wait for their stop signal. Pure.

use std::collections::{BTreeSet, VecDeque};

/// One session's account.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// State index that the last set was computed from, sent or not (nothing is sent when nothing changed).
    computed: u64,
    /// Sent and not acknowledged: (index it results in, index that the node was known to be at before).
    outstanding: VecDeque<(u64, u64)>,
}

impl Ledger {
    /// A set was computed from the state at `index`; `sent` says whether it differed and went out.
    pub fn compute(&mut self, index: u64, sent: bool) {
        if sent {
            self.outstanding.push_back((index, self.computed));
        }
        self.computed = index;
    }

    /// The node has put everything up to the set with this index into its tables. True if that moved [`Ledger::clean`].
    pub fn acknowledge(&mut self, index: u64) -> bool {
        let before = self.clean();
        while self.outstanding.front().is_some_and(|(sent, _)| *sent <= index) {
            self.outstanding.pop_front();
        }
        self.clean() != before
    }

    /// The node's tables hold everything that the state held at this index.
    pub fn clean(&self) -> u64 {
        self.outstanding
            .front()
            .map_or(self.computed, |(_, before)| *before)
    }

    pub fn computed(&self) -> u64 {
        self.computed
    }
}

/// Adds to `released` the withdrawn tasks (with the index they left the tables at) that all sessions have taken out of
/// their tables, and forgets those that are no longer withdrawn. What was released stays so: a session that opens
/// later starts from a set without the task. True if something changed.
pub fn release(
    released: &mut BTreeSet<String>,
    withdrawn: impl IntoIterator<Item = (String, u64)>,
    clean: impl IntoIterator<Item = u64>,
) -> bool {
    let clean = clean.into_iter().min().unwrap_or(u64::MAX);
    let next = withdrawn
        .into_iter()
        .filter(|(task_id, at)| *at <= clean || released.contains(task_id))
        .map(|(task_id, _)| task_id)
        .collect();
    let changed = *released != next;
    *released = next;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_clean_up_to_what_it_acknowledged() {
        let mut ledger = Ledger::default();
        ledger.compute(5, true);
        assert_eq!(ledger.clean(), 0);
        assert!(ledger.acknowledge(5));
        assert_eq!(ledger.clean(), 5);
        ledger.compute(7, false);
        assert_eq!(ledger.clean(), 7);
        ledger.compute(9, true);
        ledger.compute(12, true);
        assert_eq!(ledger.clean(), 7);
        assert!(ledger.acknowledge(9));
        assert_eq!(ledger.clean(), 9);
        assert!(!ledger.acknowledge(9));
        assert!(ledger.acknowledge(12));
        assert_eq!(ledger.clean(), 12);
    }

    #[test]
    fn a_task_is_released_when_the_last_session_is_clean_and_stays_released() {
        let mut released = BTreeSet::new();
        let tasks = || [("t".to_string(), 10)];
        assert!(!release(&mut released, tasks(), [10, 9]));
        assert!(release(&mut released, tasks(), [10, 11]));
        assert!(!release(&mut released, tasks(), [10, 0]));
        assert!(released.contains("t"));
        assert!(release(&mut released, [], [10]));
        assert!(released.is_empty());
        assert!(
            release(&mut released, tasks(), []),
            "no session in reach holds nothing up"
        );
    }
}
