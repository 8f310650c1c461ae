//! The kernel, one file per side of it.

pub mod kernel;
