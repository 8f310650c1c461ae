//! Who a node is: its certificate and key and the root it trusts, as files of one directory.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::model::Role;

/// A node's certificate. Cheap to clone; the key is PEM text and is never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// CN of the certificate.
    pub node_id: String,
    /// O of the certificate.
    pub cluster_id: String,
    /// OU of the certificate: `swarm-manager` or `swarm-worker`.
    pub role: Role,
    pub cert_pem: String,
    pub key_pem: String,
    pub root_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("node_id", &self.node_id)
            .field("cluster_id", &self.cluster_id)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the certificate in {path} is not a node certificate: {reason}")]
    Malformed { path: PathBuf, reason: String },
}

/// Writes a file so that a crash leaves the old or the new content: a temporary file (mode 0600), fsync, rename,
/// fsync of the directory.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let write = || -> std::io::Result<()> {
        let temporary = path.with_extension("new");
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        if let Some(directory) = path.parent() {
            std::fs::File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| IdentityError::Write {
        path: path.to_path_buf(),
        source,
    })
}
