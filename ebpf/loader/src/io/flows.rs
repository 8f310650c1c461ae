//! The flow tables in the kernel, through handles of their own: whoever reads them stops nobody else.

use std::path::Path;

use skep_ebpf_common::state::is_over;
use skep_ebpf_common::{FlowKey, FlowValue, LAYOUT};

use crate::io::raw_map::{Added, RawMap, RawMapError, bytes, from_bytes};
use crate::tables::TableUsage;

pub const ESTABLISHED: &str = "FLOWS";
pub const HALF_OPEN: &str = "HALF_OPEN";
/// Layouts whose entries mean the same, byte for byte. A layout with other flows gets a converter in [`take`], and one in
/// `flows::adopt` of the programs.
const ALIKE: std::ops::RangeInclusive<u32> = 1..=LAYOUT;

/// One of the two tables.
#[derive(Debug)]
pub struct FlowTable {
    map: RawMap,
}

impl FlowTable {
    pub fn open(pins: &Path, name: &str) -> Result<Self, RawMapError> {
        let map = RawMap::open(&pins.join(name), size_of::<FlowKey>(), size_of::<FlowValue>())?;
        Ok(Self { map })
    }

    /// Shows all flows.
    pub fn walk(&self, mut each: impl FnMut(FlowKey, FlowValue)) -> Result<(), RawMapError> {
        self.map
            .walk(|key, value| each(from_bytes(key), from_bytes(value)))
    }

    /// Forgets a flow if it is still what `condition` asks for: it may have been opened anew since it was read.
    pub fn remove_if(
        &self,
        key: &FlowKey,
        condition: impl FnOnce(&FlowValue) -> bool,
    ) -> Result<bool, RawMapError> {
        let mut value = [0; size_of::<FlowValue>()];
        if !self.map.get(bytes(key), &mut value)? || !condition(&from_bytes(&value)) {
            return Ok(false);
        }
        self.map.remove(bytes(key))
    }

    /// How full it is, by counting.
    pub fn usage(&self) -> Result<TableUsage, RawMapError> {
        let mut used = 0;
        self.map.walk(|_, _| used += 1)?;
        Ok(TableUsage {
            used,
            limit: self.map.max_entries(),
            bytes: self.map.memory()?,
        })
    }
}

/// Whether flows of this layout can be taken over.
pub fn is_alike(layout: u32) -> bool {
    ALIKE.contains(&layout)
}

/// What came of flows that were copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    pub flows: u64,
    /// Here already: their packets were faster.
    pub known: u64,
    /// Established ones without a place that nothing can evict them from.
    pub crowded: u64,
}

/// Copies the flows of another layout's directory. What is here already is newer and stays.
pub fn take(from: &Path, established: &FlowTable, half_open: &FlowTable) -> Result<Taken, RawMapError> {
    let mut taken = Taken::default();
    for name in [ESTABLISHED, HALF_OPEN] {
        let mut flows: Vec<(FlowKey, FlowValue)> = Vec::new();
        FlowTable::open(from, name)?.walk(|key, value| flows.push((key, value)))?;
        for (key, value) in &flows {
            let (key, lasting) = (bytes(key), name == ESTABLISHED && !is_over(value));
            let mut added = Added::Full;
            if lasting {
                added = established.map.add(key, bytes(value))?;
                taken.crowded += u64::from(added == Added::Full);
            }
            if added == Added::Full {
                added = half_open.map.add(key, bytes(value))?;
            }
            match added {
                Added::Yes => taken.flows += 1,
                Added::Known | Added::Full => taken.known += 1,
            }
        }
    }
    Ok(taken)
}
