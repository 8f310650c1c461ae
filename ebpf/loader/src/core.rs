//! Pure half of the loader.

pub mod rows;
