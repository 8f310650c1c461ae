//! The ledger: the assignments this node works by, on disk. A node acts on it before any manager is heard.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use skep_control::model::{Item, Items};

use crate::core::desired::Desired;

const FORMAT: u32 = 1;

/// The file's content.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(string, tag = "2")]
    node_id: String,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(btree_map = "string, message", tag = "4")]
    items: Items,
}

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("read the ledger {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("write the ledger {path}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the ledger {path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
}

#[derive(Clone, Debug)]
pub struct Ledger {
    path: PathBuf,
}

impl Ledger {
    pub fn new(state_dir: &Path) -> Ledger {
        Ledger {
            path: state_dir.join("ledger.pb"),
        }
    }

    /// The stored set, not yet confirmed by a manager; `None` when there is none.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn load(&self) -> Result<Option<Desired>, LedgerError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.read_error(source)),
        };
        let damaged = |reason: String| LedgerError::Damaged {
            path: self.path.clone(),
            reason,
        };
        let record = Record::decode(bytes.as_slice()).map_err(|e| damaged(e.to_string()))?;
        if record.format != FORMAT {
            return Err(damaged(format!("format {} instead of {FORMAT}", record.format)));
        }
        Ok(Some(Desired {
            node_id: record.node_id,
            items: Arc::new(record.items),
            index: record.index,
            complete: false,
        }))
    }

    /// A crash leaves the old or the new set: temporary file, fsync, rename, fsync of the directory.
    ///
    /// # Errors
    /// [`LedgerError`]; the old set stays.
    pub fn store(&self, desired: &Desired) -> Result<(), LedgerError> {
        let record = Record {
            format: FORMAT,
            node_id: desired.node_id.clone(),
            index: desired.index,
            items: desired
                .items
                .iter()
                .map(|(k, v): (&String, &Item)| (k.clone(), v.clone()))
                .collect(),
        };
        self.write(&record.encode_to_vec())
            .map_err(|source| LedgerError::Write {
                path: self.path.clone(),
                source,
            })
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        let temporary = self.path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }

    fn read_error(&self, source: std::io::Error) -> LedgerError {
        LedgerError::Read {
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use skep_control::model::{ItemKind, PeerItem};

    use super::*;

    fn desired() -> Desired {
        let peer = PeerItem {
            node_id: "n2".into(),
            index: 2,
            ..PeerItem::default()
        };
        let kind = Some(ItemKind::Peer(peer));
        Desired {
            node_id: "n1".into(),
            items: Arc::new([("peer/n2".to_string(), Item { kind })].into()),
            index: 7,
            complete: true,
        }
    }

    #[test]
    fn what_is_stored_comes_back_unconfirmed() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(dir.path());
        assert_eq!(ledger.load().unwrap(), None);
        ledger.store(&desired()).unwrap();
        let expected = Desired {
            complete: false,
            ..desired()
        };
        assert_eq!(ledger.load().unwrap(), Some(expected));
    }

    #[test]
    fn a_torn_write_beside_the_ledger_does_no_harm_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(dir.path());
        ledger.store(&desired()).unwrap();
        fs::write(dir.path().join("ledger.new"), b"torn").unwrap();
        assert!(ledger.load().unwrap().is_some());
        fs::write(dir.path().join("ledger.pb"), b"\xff\xff").unwrap();
        assert!(ledger.load().unwrap_err().to_string().contains("is damaged"));
    }
}
