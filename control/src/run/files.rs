//! The state directory.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{Facts, RunError};
use crate::ca::identity::write_private;
use crate::ca::{Identity, IdentityError, UnlockKey};
use crate::raft::group::KEYS;
use crate::raft::seal;

const FACTS: &str = "node.json";

pub(super) fn raft_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("raft")
}

fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RunError {
    let path = path.to_path_buf();
    move |source| RunError::File {
        operation,
        path,
        source,
    }
}

pub(super) fn make_dir(path: &Path) -> Result<(), RunError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(file_error("make the directory", path))
}

/// Facts and identity of this node's swarm; `None` when it is in none. `unlock` opens what is locked. Blocking file reads.
pub fn stored(state_dir: &Path, unlock: Option<&UnlockKey>) -> Result<Option<(Facts, Identity)>, RunError> {
    let Some(facts) = stored_facts(state_dir)? else {
        return Ok(None);
    };
    let identity = match Identity::load(state_dir, unlock) {
        Ok(identity) => identity.ok_or(RunError::NoIdentity {
            path: state_dir.join(FACTS),
        })?,
        Err(IdentityError::Locked { .. }) => return Err(RunError::Locked),
        Err(error) => return Err(error.into()),
    };
    // A crash may have locked the one and not the other.
    if !seal::opens(&raft_dir(state_dir).join(KEYS), unlock).map_err(RunError::Lock)? {
        return Err(RunError::Locked);
    }
    Ok(Some((facts, identity)))
}

/// This node's id, also while what it stored is locked; `None` when it is in no swarm.
pub fn stored_node_id(state_dir: &Path) -> Result<Option<String>, RunError> {
    Ok(Identity::stored_node_id(state_dir)?)
}

pub(super) fn stored_facts(state_dir: &Path) -> Result<Option<Facts>, RunError> {
    let path = state_dir.join(FACTS);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error("read", &path)(error)),
    };
    match serde_json::from_slice(&bytes) {
        Ok(facts) => Ok(Some(facts)),
        Err(source) => Err(RunError::Facts { path, source }),
    }
}

/// Makes the directories of a node in no swarm, removing what an init or join that failed may have left.
pub(super) fn prepare(state_dir: &Path) -> Result<(), RunError> {
    if stored_facts(state_dir)?.is_some() {
        return Err(RunError::AlreadyMember);
    }
    make_dir(state_dir)?;
    clear(state_dir)?;
    make_dir(&raft_dir(state_dir))
}

/// Makes this node a member, from the next start on too.
pub(super) fn store(state_dir: &Path, identity: &Identity, facts: &Facts) -> Result<(), RunError> {
    identity.store(state_dir, None)?;
    store_facts(state_dir, facts)
}

pub(super) fn store_facts(state_dir: &Path, facts: &Facts) -> Result<(), RunError> {
    let path = state_dir.join(FACTS);
    let bytes = serde_json::to_vec_pretty(facts).map_err(|source| RunError::Facts {
        path: path.clone(),
        source,
    })?;
    write_private(&path, &bytes)?;
    Ok(())
}

/// Forgets the swarm: what a node that leaves does last, after its manager was stopped. Other files stay.
pub fn clear(state_dir: &Path) -> Result<(), RunError> {
    // The facts first: without them the rest is nothing.
    for name in [FACTS, "node.crt", "root.crt"] {
        let path = state_dir.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(file_error("remove", &path)(error));
            }
            _ => {}
        }
    }
    clear_raft(state_dir)
}

/// Removes the Raft store: of a node that is no manager any more, or not yet.
pub(super) fn clear_raft(state_dir: &Path) -> Result<(), RunError> {
    let path = raft_dir(state_dir);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file_error("remove", &path)(error)),
        _ => Ok(()),
    }
}
