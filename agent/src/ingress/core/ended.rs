//! This node's tasks that have ended before any manager said so: its peers must know, whether a manager lives or not.

use std::collections::{BTreeMap, BTreeSet};

use skep_control::model::{Item, ItemKind, Items, TaskState, TaskStatus};

use crate::network::core::tables::task_hash;

/// Hashes of those tasks, and of those whose health check failed. Managers take a task out of the items once they know of its end; one that is to stop counts
/// too, since flows it has are led to it until it is gone.
pub fn ended(items: &Items, statuses: &BTreeMap<String, TaskStatus>) -> BTreeSet<u64> {
    let running = TaskState::Running as i32;
    let tasks = items.values().filter_map(|Item { kind }| match kind {
        Some(ItemKind::Task(task)) => Some(task),
        _ => None,
    });
    let ended = tasks.filter(|task| {
        let status = statuses.get(&task.id);
        status.is_some_and(|status| status.state > running || status.unhealthy)
    });
    ended.map(|task| task_hash(&task.id)).collect()
}

#[cfg(test)]
mod tests {
    use skep_control::model::{TaskItem, item_key};

    use super::*;

    fn task(id: &str, desired: TaskState) -> (String, Item) {
        let kind = ItemKind::Task(TaskItem {
            id: id.to_string(),
            desired_state: desired as i32,
            ..TaskItem::default()
        });
        (item_key(&kind), Item { kind: Some(kind) })
    }

    #[test]
    fn what_ended_and_is_still_among_the_items() {
        let items = Items::from([
            task("runs", TaskState::Running),
            task("failed", TaskState::Running),
            task("starts", TaskState::Running),
            task("unhealthy", TaskState::Running),
            task("stopped", TaskState::Shutdown),
        ]);
        let statuses = [
            ("runs", TaskState::Running),
            ("failed", TaskState::Failed),
            ("unhealthy", TaskState::Running),
            ("stopped", TaskState::Shutdown),
            ("of another time", TaskState::Failed),
        ];
        let statuses = statuses.map(|(id, state)| {
            let status = TaskStatus {
                state: state as i32,
                unhealthy: id == "unhealthy",
                ..TaskStatus::default()
            };
            (id.to_string(), status)
        });
        assert_eq!(
            ended(&items, &BTreeMap::from(statuses)),
            BTreeSet::from(["failed", "stopped", "unhealthy"].map(task_hash))
        );
    }
}
