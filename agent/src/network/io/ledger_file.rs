//! The driver's ledger on disk: one JSON file, replaced whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::network::core::ledger::DriverLedger;

#[derive(Debug, thiserror::Error)]
pub enum LedgerFileError {
    #[error("{operation} the network driver's ledger {path}: {source}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("read the network driver's ledger {path}: {source}")]
    Format {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// Where the ledger lies.
#[derive(Debug, Clone)]
pub struct LedgerFile {
    path: PathBuf,
}

impl LedgerFile {
    /// `network/driver.json` in the agent's directory; the folder is made.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(state_dir: &Path) -> Result<Self, LedgerFileError> {
        let folder = state_dir.join("network");
        let path = folder.join("driver.json");
        fs::create_dir_all(&folder).map_err(|source| LedgerFileError::Io {
            operation: "make the folder of",
            path: path.clone(),
            source,
        })?;
        Ok(Self { path })
    }

    /// The ledger; a missing file is an empty one.
    ///
    /// # Errors
    /// When it cannot be read: going on with an empty one would lose what Docker tells only once.
    pub fn load(&self) -> Result<DriverLedger, LedgerFileError> {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| LedgerFileError::Format {
                path: self.path.clone(),
                source,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(DriverLedger::default()),
            Err(source) => Err(self.error("read", source)),
        }
    }

    /// Replaces the file by way of a temporary one beside it. `durable`: it is on the disk when this returns (networks,
    /// which Docker never tells again); endpoints do not outlive a boot anyway.
    ///
    /// # Errors
    /// When it cannot be written; the old content then stands.
    pub fn save(&self, ledger: &DriverLedger, durable: bool) -> Result<(), LedgerFileError> {
        let bytes = serde_json::to_vec(ledger).map_err(|source| LedgerFileError::Format {
            path: self.path.clone(),
            source,
        })?;
        let temporary = self.path.with_extension("json.new");
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(&bytes)?;
            if durable { file.sync_all() } else { Ok(()) }
        });
        written.map_err(|source| self.error("write", source))?;
        fs::rename(&temporary, &self.path).map_err(|source| self.error("replace", source))?;
        if durable && let Some(folder) = self.path.parent() {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|source| self.error("sync the folder of", source))?;
        }
        Ok(())
    }

    fn error(&self, operation: &'static str, source: io::Error) -> LedgerFileError {
        LedgerFileError::Io {
            operation,
            path: self.path.clone(),
            source,
        }
    }
}
