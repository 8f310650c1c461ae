//! Tables of published ports: a new one is written beside the old one before the port points to it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use skep_ebpf_common::{MAX_ROWS, MAX_TASKS, PUBLISHED_DSR, PublishedKey, PublishedValue};

use super::{Datapath, DatapathError};
use crate::core::contents::{address, published_tasks};
use crate::core::sockets::stand_ins;
use crate::core::{regions, rows};
use crate::tables::{IngressMode, PublishedEntry, SyncReport, Tables};

/// Why a port is not published as it should be. What stood for it before stays.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("row algorithm {0} is not known to this version")]
    Algorithm(u32),
    #[error("2^{0} rows are outside of 2^4 to 2^14")]
    Rows(u8),
    #[error("no room left in the table of {0}")]
    Full(&'static str),
}

impl Datapath {
    /// A packet sees the old table of a port or the new one. A port that cannot be published stands in the report.
    pub(super) fn publish(&mut self, tables: &Tables, report: &mut SyncReport) -> Result<(), DatapathError> {
        let stand_ins = stand_ins(&tables.ingress);
        for (key, entry) in tables.published.iter().flat_map(|entry| keyed(entry, &stand_ins)) {
            let entry = &*seen_from(entry, self.config.node_index);
            if self.published.get(&key) == Some(entry) {
                continue;
            }
            match check(entry).and_then(|()| self.room(entry)) {
                Ok((rows_base, tasks_base)) => {
                    self.write(key, entry, rows_base, tasks_base)?;
                    report.written += 1;
                }
                Err(refused) => report.refused.push((entry.published_port, refused.to_string())),
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        key: PublishedKey,
        entry: &PublishedEntry,
        rows_base: u32,
        tasks_base: u32,
    ) -> Result<(), DatapathError> {
        let (tasks, candidates) = published_tasks(entry);
        let rows = rows::build(entry.seed, entry.rows_log2, &candidates);
        self.maps.write_tasks(tasks_base, &tasks)?;
        self.maps.write_rows(rows_base, &rows)?;
        let changed_s = if self.maps.published.held.contains_key(&key) {
            Self::now()?.as_secs() as u32
        } else {
            0
        };
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
            flags: if entry.mode == IngressMode::Dsr {
                PUBLISHED_DSR
            } else {
                0
            },
            changed_s,
            spare: 0,
        };
        self.maps.published.write(key, value)?;
        self.published.insert(key, entry.clone());
        Ok(())
    }

    /// Where the rows and the tasks of a port may be written.
    fn room(&mut self, entry: &PublishedEntry) -> Result<(u32, u32), Refused> {
        let held = || self.maps.published.held.values();
        let rows_in_use: Vec<(u32, u32)> = held().map(|v| (v.rows_base, v.rows_mask + 1)).collect();
        let tasks_in_use: Vec<(u32, u32)> = held().map(|v| (v.tasks_base, v.tasks)).collect();
        let (rows, tasks) = (1 << entry.rows_log2, entry.tasks.len() as u32);
        let rows_base =
            regions::find(&rows_in_use, MAX_ROWS, rows, self.next_row).ok_or(Refused::Full("rows"))?;
        let tasks_base =
            regions::find(&tasks_in_use, MAX_TASKS, tasks, self.next_task).ok_or(Refused::Full("tasks"))?;
        self.next_row = rows_base + rows;
        self.next_task = tasks_base + tasks;
        Ok((rows_base, tasks_base))
    }

    pub(super) fn withdraw(&mut self, tables: &Tables) -> Result<usize, DatapathError> {
        let stand_ins = stand_ins(&tables.ingress);
        let keys = tables.published.iter().flat_map(|entry| keyed(entry, &stand_ins));
        let wanted: BTreeSet<PublishedKey> = keys.map(|(key, _)| key).collect();
        let held = self.maps.published.held.keys();
        let gone: Vec<PublishedKey> = held.filter(|key| !wanted.contains(key)).copied().collect();
        for key in &gone {
            self.maps.published.remove(key)?;
            self.published.remove(key);
        }
        Ok(gone.len())
    }
}

/// Clients dial a port that names its address there; nodes' own sockets what stands for it.
fn keyed<'a>(
    entry: &'a PublishedEntry,
    stand_ins: &BTreeMap<IpAddr, Ipv4Addr>,
) -> impl Iterator<Item = (PublishedKey, &'a PublishedEntry)> {
    let named = entry.ingress_address;
    let stand_in = named.and_then(|named| stand_ins.get(&named));
    let addresses = [
        Some(named.map(address).unwrap_or_default()),
        stand_in.map(|stand_in| address(IpAddr::V4(*stand_in))),
    ];
    addresses.into_iter().flatten().map(move |address| {
        let key = PublishedKey {
            address,
            protocol: u16::from(entry.protocol.number()),
            port_be: entry.published_port.to_be(),
        };
        (key, entry)
    })
}

/// A local port is the node's own tasks' alone.
fn seen_from(entry: &PublishedEntry, node: u32) -> Cow<'_, PublishedEntry> {
    if entry.mode != IngressMode::Local {
        return Cow::Borrowed(entry);
    }
    let mut own = entry.clone();
    own.tasks.retain(|task| task.node == node);
    Cow::Owned(own)
}

fn check(entry: &PublishedEntry) -> Result<(), Refused> {
    if entry.algorithm != rows::ALGORITHM {
        return Err(Refused::Algorithm(entry.algorithm));
    }
    if !rows::ROWS_LOG2.contains(&entry.rows_log2) {
        return Err(Refused::Rows(entry.rows_log2));
    }
    if entry.tasks.len() > rows::MAX_TASKS {
        return Err(Refused::Full("tasks"));
    }
    Ok(())
}
