//! Pure half of the loader.

pub mod contents;
pub mod diff;
pub mod regions;
pub mod rows;
pub mod sizes;
pub mod sockets;
