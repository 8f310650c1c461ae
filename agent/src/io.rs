//! The outside world, one file per external system.

pub mod ledger;
