//! Rows of a published port: which task each hash bucket prefers, a pure function of the set of tasks and the seed.
//!
//! Tasks are ranked in each row by rendezvous hash. Adding a task moves only the rows it wins, removing one only the rows
//! it had, and whoever was first before is second now: there a flow older than the table finds its task. A fourth column
//! is no rank. While tasks drain it names the best of them, which keeps its flows and gets no new ones; else a task on a
//! node that no rank before lives on, for the seconds in which those are gone.

use skep_ebpf_common::hash::weight;
use skep_ebpf_common::{COLUMNS, NO_TASK, RANKS, Row};

/// Version of the algorithm in this file. A different one needs a new number: nodes must agree on every row.
pub const ALGORITHM: u32 = 1;
/// Bounds of `rows_log2`.
pub const ROWS_LOG2: std::ops::RangeInclusive<u8> = 4..=14;
/// Tasks one table can name.
pub const MAX_TASKS: usize = NO_TASK as usize;

/// What rows depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub task_hash: u64,
    pub node: u32,
    pub draining: bool,
}

/// Builds all rows. `candidates` must be sorted by `task_hash`; rows hold indexes into it.
pub fn build(seed: u64, rows_log2: u8, candidates: &[Candidate]) -> Vec<Row> {
    let mut ranked: Vec<(u64, u16)> = Vec::with_capacity(candidates.len());
    (0..1_u32 << rows_log2)
        .map(|row| {
            ranked.clear();
            ranked.extend(
                candidates
                    .iter()
                    .zip(0_u16..)
                    .map(|(c, index)| (weight(seed, row, c.task_hash), index)),
            );
            // Highest weight first; equal weights by task hash, lower first.
            ranked.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
            fill(candidates, &ranked)
        })
        .collect()
}

fn fill(candidates: &[Candidate], ranked: &[(u64, u16)]) -> Row {
    let of = |draining: bool| {
        ranked
            .iter()
            .map(|(_, index)| *index)
            .filter(move |index| candidates[usize::from(*index)].draining == draining)
    };
    let mut tasks = [NO_TASK; COLUMNS];
    for (column, index) in tasks.iter_mut().zip(of(false).take(RANKS)) {
        *column = index;
    }
    let node = |index: u16| candidates.get(usize::from(index)).map(|c| c.node);
    let elsewhere = of(false).find(|index| tasks[..RANKS].iter().all(|rank| node(*rank) != node(*index)));
    let draining = of(true).next();
    tasks[RANKS] = draining.or(elsewhere).unwrap_or(NO_TASK);
    // All ranks on one node, and the column beside them is taken: the third rank gives way, for that node may die.
    let on_one_node = tasks[..RANKS].iter().all(|rank| node(*rank) == node(tasks[0]));
    if let (Some(_), Some(index), true) = (draining, elsewhere, on_one_node) {
        tasks[RANKS - 1] = index;
    }
    Row { tasks }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod walks;
