//! The ledger: the assignments this node works by, on disk.
