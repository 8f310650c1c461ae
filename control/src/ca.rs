//! The certificate authority: root, join tokens, node certificates, and a node's identity on disk.
//!
//! Names in a node certificate follow swarmkit (`ca/certificates.go`): CN = node id, OU = role, O = cluster id.

pub mod authority;
pub mod identity;
pub mod lock;
pub mod token;

pub use authority::{Authority, AuthorityError};
pub use identity::{Identity, IdentityError};
pub use lock::{InvalidKey, UnlockKey};
pub use token::{InvalidToken, JoinToken};
