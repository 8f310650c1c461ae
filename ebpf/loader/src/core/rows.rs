//! Rows of a published port: which task each hash bucket prefers, a pure function of the set of tasks and the seed.

/// Version of the algorithm in this file. A different one needs a new number: nodes must agree on every row.
pub const ALGORITHM: u32 = 1;
