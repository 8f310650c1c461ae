//! Typed maps, with the contents user space knows them to have.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray};
use aya::{Ebpf, Pod};
use skep_ebpf_common::*;

use crate::core::diff::diff;
use crate::io::whole;

#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    #[error("the eBPF object has no map {0}")]
    Missing(&'static str),
    #[error(
        "pinned map {path} has keys of {} and values of {} bytes, this version needs {} and {}: \
         it was made by another build; remove the directory and start again",
        found.0, found.1, needed.0, needed.1
    )]
    Layout {
        path: PathBuf,
        found: (u32, u32),
        needed: (u32, u32),
    },
    #[error("give {path} a second name: {source}")]
    Share { path: PathBuf, source: io::Error },
    #[error("open map {map}: {}", whole(source))]
    Open { map: &'static str, source: MapError },
    #[error("read map {map}: {}", whole(source))]
    Read { map: &'static str, source: MapError },
    #[error("write map {map}: {}", whole(source))]
    Write { map: &'static str, source: MapError },
    #[error("remove from map {map}: {}", whole(source))]
    Remove { map: &'static str, source: MapError },
}

/// A table that only user space writes, so what it holds is known.
#[derive(Debug)]
pub struct Table<K, V> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
    pub held: BTreeMap<K, V>,
}

impl<K: Pod + Ord, V: Pod + PartialEq> Table<K, V> {
    fn open(object: &mut Ebpf, name: &'static str) -> Result<Self, MapsError> {
        let map: HashMap<MapData, K, V> = take(object, name)?
            .try_into()
            .map_err(|source| MapsError::Open { map: name, source })?;
        let held = map
            .iter()
            .collect::<Result<BTreeMap<K, V>, MapError>>()
            .map_err(|source| MapsError::Read { map: name, source })?;
        Ok(Self { name, map, held })
    }

    pub fn write(&mut self, key: K, value: V) -> Result<(), MapsError> {
        insert(&mut self.map, self.name, key, value)?;
        self.held.insert(key, value);
        Ok(())
    }

    pub fn remove(&mut self, key: &K) -> Result<(), MapsError> {
        remove(&mut self.map, self.name, key)?;
        self.held.remove(key);
        Ok(())
    }

    /// Writes what is missing or different. Returns how many.
    pub fn add(&mut self, wanted: &BTreeMap<K, V>) -> Result<usize, MapsError> {
        let (written, _) = diff(&self.held, wanted);
        for (key, value) in &written {
            self.write(*key, *value)?;
        }
        Ok(written.len())
    }

    /// Removes what is not wanted. Returns how many.
    pub fn prune(&mut self, wanted: &BTreeMap<K, V>) -> Result<usize, MapsError> {
        let (_, removed) = diff(&self.held, wanted);
        for key in &removed {
            self.remove(key)?;
        }
        Ok(removed.len())
    }
}

/// A second handle to a map that is pinned.
pub fn open_pinned<K: Pod, V: Pod>(
    pins: &Path,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, MapsError> {
    MapData::from_pin(pins.join(name))
        .and_then(|data| Map::HashMap(data).try_into())
        .map_err(|source| MapsError::Open { map: name, source })
}

pub fn insert<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: K,
    value: V,
) -> Result<(), MapsError> {
    map.insert(key, value, 0)
        .map_err(|source| MapsError::Write { map: name, source })
}

/// An entry that is gone already is fine.
pub fn remove<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: &K,
) -> Result<(), MapsError> {
    match map.remove(key) {
        Err(source) if !is_absent(&source) => Err(MapsError::Remove { map: name, source }),
        _ => Ok(()),
    }
}

pub fn keys<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>, name: &'static str) -> Result<Vec<K>, MapsError> {
    map.keys()
        .collect::<Result<_, MapError>>()
        .map_err(|source| MapsError::Read { map: name, source })
}

fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

/// Names of the pinned maps that user space reads or writes, with the sizes of their keys and values.
const SIZES: &[(&str, usize, usize)] = &[
    size::<u32, InterfaceValue>("INTERFACES"),
    size::<SourceKey, SourceValue>("SOURCES"),
    size::<u32, NetworkValue>("NETWORKS"),
    size::<EndpointKey, EndpointValue>("ENDPOINTS"),
    size::<BackendKey, BackendValue>("BACKENDS"),
    size::<u32, NodeValue>("NODES"),
    size::<Address, u32>("PEERS"),
    size::<u32, u32>("MARKS"),
    size::<Address, HolderValue>("HOLDERS"),
    size::<Address, OwnAddressValue>("OWN_ADDRESSES"),
    size::<Address, LocalAddressValue>("LOCAL_ADDRESSES"),
    size::<u32, DialedValue>("DIALED"),
    size::<PublishedKey, PublishedValue>("PUBLISHED"),
    size::<u32, Row>("ROWS"),
    size::<u32, TaskValue>("TASKS"),
    size::<FlowKey, FlowValue>("FLOWS"),
    size::<FlowKey, FlowValue>("HALF_OPEN"),
    size::<u32, u32>("GATE"),
    size::<u32, u32>("PRESSURE"),
    size::<u32, u64>("DROPS"),
    size::<u32, u64>("COUNTERS"),
];

const fn size<K, V>(name: &str) -> (&str, usize, usize) {
    (name, size_of::<K>(), size_of::<V>())
}

/// Checks that maps pinned by another build have the sizes of this one: the kernel reads and writes as many bytes as the
/// map says, whatever we hand it. Maps that are not pinned yet are fine.
pub fn check(pins: &Path) -> Result<(), MapsError> {
    for &(name, key, value) in SIZES {
        let path = pins.join(name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(|source| MapsError::Open { map: name, source })?;
        let found = (info.key_size(), info.value_size());
        let needed = (key as u32, value as u32);
        if found != needed {
            return Err(MapsError::Layout { path, found, needed });
        }
    }
    Ok(())
}

/// What sockets dialed is kept with them, in a map that one of the older directories may have: the same map, under another
/// name, so that an open connection keeps the name of its peer. Of other sizes it stays where it is.
pub fn share_dialed(older: &[PathBuf], pins: &Path) -> Result<(), MapsError> {
    const NAME: &str = "DIALED";
    let own = pins.join(NAME);
    let open = |source| MapsError::Open { map: NAME, source };
    for path in older
        .iter()
        .map(|pins| pins.join(NAME))
        .filter(|path| path.exists())
    {
        let info = MapInfo::from_pin(&path).map_err(open)?;
        if own.exists() || info.value_size() as usize != size_of::<DialedValue>() {
            continue;
        }
        fs::hard_link(&path, &own).map_err(|source| MapsError::Share { path, source })?;
    }
    Ok(())
}

/// All maps of the data plane.
pub struct Maps {
    pub interfaces: Table<u32, InterfaceValue>,
    pub sources: Table<SourceKey, SourceValue>,
    pub networks: Table<u32, NetworkValue>,
    pub endpoints: Table<EndpointKey, EndpointValue>,
    pub backends: Table<BackendKey, BackendValue>,
    pub nodes: Table<u32, NodeValue>,
    pub peers: Table<Address, u32>,
    marks: HashMap<MapData, u32, u32>,
    pub own_addresses: Table<Address, OwnAddressValue>,
    pub local_addresses: Table<Address, LocalAddressValue>,
    pub published: Table<PublishedKey, PublishedValue>,
    gate: Array<MapData, u32>,
    rows: Array<MapData, Row>,
    tasks: Array<MapData, TaskValue>,
    drops: PerCpuArray<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
}

impl Maps {
    pub fn open(object: &mut Ebpf) -> Result<Self, MapsError> {
        Ok(Self {
            interfaces: Table::open(object, "INTERFACES")?,
            sources: Table::open(object, "SOURCES")?,
            networks: Table::open(object, "NETWORKS")?,
            endpoints: Table::open(object, "ENDPOINTS")?,
            backends: Table::open(object, "BACKENDS")?,
            nodes: Table::open(object, "NODES")?,
            peers: Table::open(object, "PEERS")?,
            marks: open(object, "MARKS")?,
            own_addresses: Table::open(object, "OWN_ADDRESSES")?,
            local_addresses: Table::open(object, "LOCAL_ADDRESSES")?,
            published: Table::open(object, "PUBLISHED")?,
            gate: open(object, "GATE")?,
            rows: open(object, "ROWS")?,
            tasks: open(object, "TASKS")?,
            drops: open(object, "DROPS")?,
            counters: open(object, "COUNTERS")?,
        })
    }

    /// Nodes that leave the tables take their marks along; one that the tables do not know yet keeps its own.
    pub fn unmark_all_but(&mut self, nodes: &BTreeMap<u32, NodeValue>) -> Result<(), MapsError> {
        for node in self.nodes.held.keys().filter(|node| !nodes.contains_key(node)) {
            remove(&mut self.marks, "MARKS", node)?;
        }
        Ok(())
    }

    pub fn write_rows(&mut self, base: u32, rows: &[Row]) -> Result<(), MapsError> {
        for (index, row) in (base..).zip(rows) {
            self.rows
                .set(index, row, 0)
                .map_err(|source| MapsError::Write { map: "ROWS", source })?;
        }
        Ok(())
    }

    pub fn write_tasks(&mut self, base: u32, tasks: &[TaskValue]) -> Result<(), MapsError> {
        for (index, task) in (base..).zip(tasks) {
            self.tasks
                .set(index, task, 0)
                .map_err(|source| MapsError::Write { map: "TASKS", source })?;
        }
        Ok(())
    }

    /// From now on the programs of this layout work, whatever stands behind them.
    pub fn open_gate(&mut self) -> Result<(), MapsError> {
        self.gate
            .set(0, 1, 0)
            .map_err(|source| MapsError::Write { map: "GATE", source })
    }

    /// Drops by number of their reason, summed over CPUs.
    pub fn drops(&self) -> Result<Vec<u64>, MapsError> {
        sums(&self.drops, "DROPS", DROP_SLOTS)
    }

    /// Received, passed, redirected, dropped.
    pub fn counters(&self) -> Result<Vec<u64>, MapsError> {
        sums(&self.counters, "COUNTERS", COUNTER_SLOTS)
    }
}

fn sums(map: &PerCpuArray<MapData, u64>, name: &'static str, slots: u32) -> Result<Vec<u64>, MapsError> {
    (0..slots)
        .map(|slot| {
            let values = map
                .get(&slot, 0)
                .map_err(|source| MapsError::Read { map: name, source })?;
            Ok(values.iter().sum())
        })
        .collect()
}

fn take(object: &mut Ebpf, name: &'static str) -> Result<Map, MapsError> {
    object.take_map(name).ok_or(MapsError::Missing(name))
}

fn open<M: TryFrom<Map, Error = MapError>>(object: &mut Ebpf, name: &'static str) -> Result<M, MapsError> {
    take(object, name)?
        .try_into()
        .map_err(|source| MapsError::Open { map: name, source })
}
