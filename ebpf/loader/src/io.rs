//! The kernel, one file per side of it.

pub mod attach;
pub mod bpffs;
mod clsact;
pub mod device;
pub mod kernel;
pub mod maps;
pub mod object;
pub mod test_run;
