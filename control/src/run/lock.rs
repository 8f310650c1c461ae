//! What a manager stored, locked by the swarm's unlock key (`docker swarm update --autolock`).

use std::path::Path;

use super::{RunError, files};
use crate::ca::{Identity, UnlockKey};
use crate::raft::group::KEYS;
use crate::raft::seal::{self, SealError};

/// Locks the Raft store and the node's key with `new`, or opens them for `None`. `old` is what they are locked with now.
/// Blocking.
pub fn relock(
    state_dir: &Path,
    identity: &Identity,
    old: Option<&UnlockKey>,
    new: Option<&UnlockKey>,
) -> Result<(), RunError> {
    let keys = files::raft_dir(state_dir).join(KEYS);
    match seal::relock(&keys, old, new) {
        // Locked anew already, and then the node crashed.
        Err(SealError::Locked) => seal::relock(&keys, new, new),
        done => done,
    }
    .map_err(RunError::Lock)?;
    store_identity(state_dir, identity, new)
}

/// Stores a renewed certificate, its key locked with `lock` if managers are locked. Blocking.
pub fn store_identity(
    state_dir: &Path,
    identity: &Identity,
    lock: Option<&UnlockKey>,
) -> Result<(), RunError> {
    Ok(identity.store(state_dir, lock)?)
}
