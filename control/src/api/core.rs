//! The pure half of the API: versions, queries, filters, JSON shapes, what changed.

pub mod case;
pub mod change;
pub mod container;
pub mod filter;
pub mod find;
pub mod gate;
pub mod image;
pub mod log;
pub mod names;
pub mod query;
pub mod shape;
pub mod time;
pub mod twin;
pub mod version;
