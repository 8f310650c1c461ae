//! The certificate authority: root, join tokens, node certificates, and a node's identity on disk.

pub mod identity;

pub use identity::{Identity, IdentityError};
