//! Tables of published ports: rows and tasks, swapped as a whole.

use std::collections::BTreeSet;

use skep_ebpf_common::{MAX_ROWS, MAX_TASKS, PublishedKey, PublishedValue};

use super::{Datapath, DatapathError};
use crate::core::contents::published_tasks;
use crate::core::{regions, rows};
use crate::tables::{PublishedEntry, Tables};

impl Datapath {
    /// Writes new tables of ports beside the old ones and then points to them, so that a packet sees one or the other.
    pub(super) fn publish(&mut self, tables: &Tables) -> Result<usize, DatapathError> {
        let mut written = 0;
        for entry in &tables.published {
            let key = published_key(entry);
            if self.published.get(&key) == Some(entry) {
                continue;
            }
            check(entry)?;
            let (tasks, candidates) = published_tasks(entry);
            let rows = rows::build(entry.seed, entry.rows_log2, &candidates);
            let rows_base = self.room_for_rows(entry, rows.len() as u32)?;
            let tasks_base = self.room_for_tasks(entry, tasks.len() as u32)?;
            self.maps.write_tasks(tasks_base, &tasks)?;
            self.maps.write_rows(rows_base, &rows)?;
            let value = PublishedValue {
                seed: entry.seed,
                rows_base,
                rows_mask: rows.len() as u32 - 1,
                tasks_base,
                tasks: tasks.len() as u32,
                network: entry.ingress_vni,
                algorithm: entry.algorithm,
                target_port_be: entry.target_port.to_be(),
                pad: 0,
                spare: 0,
            };
            self.maps.published.write(key, value)?;
            self.published.insert(key, entry.clone());
            written += 1;
        }
        Ok(written)
    }

    fn room_for_rows(&mut self, entry: &PublishedEntry, length: u32) -> Result<u32, DatapathError> {
        let in_use: Vec<(u32, u32)> = self
            .maps
            .published
            .held
            .values()
            .map(|v| (v.rows_base, v.rows_mask + 1))
            .collect();
        let base = regions::find(&in_use, MAX_ROWS, length, self.next_row).ok_or(DatapathError::Full {
            port: entry.published_port,
            table: "rows",
        })?;
        self.next_row = base + length;
        Ok(base)
    }

    fn room_for_tasks(&mut self, entry: &PublishedEntry, length: u32) -> Result<u32, DatapathError> {
        let in_use: Vec<(u32, u32)> = self
            .maps
            .published
            .held
            .values()
            .map(|v| (v.tasks_base, v.tasks))
            .collect();
        let base = regions::find(&in_use, MAX_TASKS, length, self.next_task).ok_or(DatapathError::Full {
            port: entry.published_port,
            table: "tasks",
        })?;
        self.next_task = base + length;
        Ok(base)
    }

    pub(super) fn withdraw(&mut self, tables: &Tables) -> Result<usize, DatapathError> {
        let wanted: BTreeSet<PublishedKey> = tables.published.iter().map(published_key).collect();
        let gone: Vec<PublishedKey> = self
            .maps
            .published
            .held
            .keys()
            .filter(|key| !wanted.contains(key))
            .copied()
            .collect();
        for key in &gone {
            self.maps.published.remove(key)?;
            self.published.remove(key);
        }
        Ok(gone.len())
    }
}

fn published_key(entry: &PublishedEntry) -> PublishedKey {
    PublishedKey {
        protocol: u16::from(entry.protocol.number()),
        port_be: entry.published_port.to_be(),
    }
}

fn check(entry: &PublishedEntry) -> Result<(), DatapathError> {
    let port = entry.published_port;
    if entry.algorithm != rows::ALGORITHM {
        return Err(DatapathError::Algorithm {
            port,
            algorithm: entry.algorithm,
        });
    }
    if !rows::ROWS_LOG2.contains(&entry.rows_log2) {
        return Err(DatapathError::Rows {
            port,
            rows_log2: entry.rows_log2,
        });
    }
    if entry.tasks.len() > rows::MAX_TASKS {
        return Err(DatapathError::Full { port, table: "tasks" });
    }
    Ok(())
}
