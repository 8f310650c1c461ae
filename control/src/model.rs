//! Stored and transmitted types. They are ours: nothing of bollard or openraft is in here, and every
//! tag is part of the disk and wire format (fields are added with new tags, never renumbered).
//!
//! Absent is kept apart from empty where the Engine API does: optional scalars and messages are `Option`;
//! lists and maps that the API omits when empty are plain.

pub mod assignment;
pub mod command;
pub mod id;
pub mod ingress;
pub mod object;
pub mod spec;
pub mod update;

pub use assignment::*;
pub use command::*;
pub use ingress::*;
pub use object::*;
pub use spec::*;
pub use update::*;
