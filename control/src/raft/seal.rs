//! Records at rest: each is sealed with XChaCha20-Poly1305 under a data key of this node, bound to its place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use prost::Message;
use zeroize::Zeroizing;

use crate::ca::UnlockKey;
use crate::ca::identity::{IdentityError, write_private};

const FORMAT: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("read the key file {path}")]
    ReadKeys { path: PathBuf, source: std::io::Error },
    #[error("write the key file")]
    WriteKeys(#[source] IdentityError),
    #[error("the key file {path} is damaged or of a later version")]
    MalformedKeys { path: PathBuf },
    #[error("the key file is locked by another unlock key, or by one at all")]
    Locked,
    #[error("record {index} of {table} is damaged, or belongs to another place, node or swarm")]
    Damaged { table: &'static str, index: u64 },
    #[error("record {index} of {table} could not be sealed")]
    Seal { table: &'static str, index: u64 },
}

/// The key file. A slot holds a data key; `wrapping` says under what: 0 = as it is (no autolock), 1 = sealed under
/// the unlock key with `nonce`.
#[derive(Clone, PartialEq, Message)]
struct KeyFile {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(message, repeated, tag = "2")]
    slots: Vec<KeySlot>,
    /// Key id that new records are sealed with.
    #[prost(uint32, tag = "3")]
    current: u32,
}

#[derive(Clone, PartialEq, Message)]
struct KeySlot {
    #[prost(uint32, tag = "1")]
    key_id: u32,
    #[prost(uint32, tag = "2")]
    wrapping: u32,
    #[prost(bytes = "vec", tag = "3")]
    nonce: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint32, tag = "2")]
    key_id: u32,
    /// In clear, and part of the associated data.
    #[prost(uint64, tag = "3")]
    term: u64,
    #[prost(bytes = "vec", tag = "4")]
    nonce: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    ciphertext: Vec<u8>,
}

/// Seals and opens the records of one node of one swarm.
pub struct Sealer {
    keys: BTreeMap<u32, XChaCha20Poly1305>,
    current: u32,
    cluster_id: String,
    node_id: String,
}

impl Sealer {
    /// Loads the key file, or makes one when there is none (mode 0600, durable before this returns). `unlock` opens a file
    /// that is locked.
    pub fn open(
        path: &Path,
        cluster_id: &str,
        node_id: &str,
        unlock: Option<&UnlockKey>,
    ) -> Result<Sealer, SealError> {
        let file = match read_keys(path)? {
            Some(file) => file,
            None => make_keys(path)?,
        };
        let mut keys = BTreeMap::new();
        for slot in &file.slots {
            let key = slot.open(path, unlock)?;
            let cipher = XChaCha20Poly1305::new_from_slice(&key).map_err(|_| malformed(path))?;
            keys.insert(slot.key_id, cipher);
        }
        if file.format != FORMAT || !keys.contains_key(&file.current) {
            return Err(malformed(path));
        }
        Ok(Sealer {
            keys,
            current: file.current,
            cluster_id: cluster_id.to_string(),
            node_id: node_id.to_string(),
        })
    }

    /// Seals `plain` for its place.
    pub fn seal(
        &self,
        table: &'static str,
        index: u64,
        term: u64,
        plain: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let nonce: [u8; 24] = rand::random();
        let aad = self.associated(table, index, term, self.current);
        let failed = || SealError::Seal { table, index };
        let ciphertext = self
            .keys
            .get(&self.current)
            .ok_or_else(failed)?
            .encrypt(
                &XNonce::from(nonce),
                Payload {
                    msg: plain,
                    aad: &aad,
                },
            )
            .map_err(|_| failed())?;
        let envelope = Envelope {
            format: FORMAT,
            key_id: self.current,
            term,
            nonce: nonce.to_vec(),
            ciphertext,
        };
        Ok(envelope.encode_to_vec())
    }

    /// Opens a record found at that place: its term and content.
    pub fn unseal(&self, table: &'static str, index: u64, bytes: &[u8]) -> Result<(u64, Vec<u8>), SealError> {
        let damaged = || SealError::Damaged { table, index };
        let envelope = Envelope::decode(bytes).map_err(|_| damaged())?;
        let nonce: [u8; 24] = envelope.nonce.as_slice().try_into().map_err(|_| damaged())?;
        if envelope.format != FORMAT {
            return Err(damaged());
        }
        let aad = self.associated(table, index, envelope.term, envelope.key_id);
        let payload = Payload {
            msg: &envelope.ciphertext,
            aad: &aad,
        };
        let plain = self
            .keys
            .get(&envelope.key_id)
            .ok_or_else(damaged)?
            .decrypt(&XNonce::from(nonce), payload)
            .map_err(|_| damaged())?;
        Ok((envelope.term, plain))
    }

    fn associated(&self, table: &str, index: u64, term: u64, key_id: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(96);
        for text in [self.cluster_id.as_str(), self.node_id.as_str(), table] {
            bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&index.to_be_bytes());
        bytes.extend_from_slice(&term.to_be_bytes());
        bytes.extend_from_slice(&FORMAT.to_be_bytes());
        bytes.extend_from_slice(&key_id.to_be_bytes());
        bytes
    }
}

impl KeySlot {
    /// What a locked key is bound to.
    fn place(&self) -> [u8; 4] {
        self.key_id.to_be_bytes()
    }

    fn open(&self, path: &Path, unlock: Option<&UnlockKey>) -> Result<Zeroizing<Vec<u8>>, SealError> {
        match self.wrapping {
            0 => Ok(Zeroizing::new(self.key.clone())),
            1 => {
                let nonce: [u8; 24] = self.nonce.as_slice().try_into().map_err(|_| malformed(path))?;
                unlock
                    .and_then(|unlock| unlock.open(&self.place(), &self.key, nonce))
                    .ok_or(SealError::Locked)
            }
            _ => Err(malformed(path)),
        }
    }

    fn locked(&self, plain: &[u8], unlock: Option<&UnlockKey>) -> Option<KeySlot> {
        let Some(unlock) = unlock else {
            return Some(KeySlot {
                key_id: self.key_id,
                wrapping: 0,
                nonce: Vec::new(),
                key: plain.to_vec(),
            });
        };
        let nonce: [u8; 24] = rand::random();
        Some(KeySlot {
            key_id: self.key_id,
            wrapping: 1,
            nonce: nonce.to_vec(),
            key: unlock.seal(&self.place(), plain, nonce)?,
        })
    }
}

/// Whether the key file opens with that unlock key (or with none). True when there is no file.
pub fn opens(path: &Path, unlock: Option<&UnlockKey>) -> Result<bool, SealError> {
    for slot in read_keys(path)?.unwrap_or_default().slots {
        match slot.open(path, unlock) {
            Ok(_) => {}
            Err(SealError::Locked) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Locks the key file with `new`, or leaves it open for `None`. `old` opens it now. The data keys stay.
pub fn relock(path: &Path, old: Option<&UnlockKey>, new: Option<&UnlockKey>) -> Result<(), SealError> {
    let Some(mut file) = read_keys(path)? else {
        return Ok(());
    };
    for slot in &mut file.slots {
        let plain = slot.open(path, old)?;
        *slot = slot.locked(&plain, new).ok_or(SealError::Locked)?;
    }
    let bytes = Zeroizing::new(file.encode_to_vec());
    write_private(path, &bytes).map_err(SealError::WriteKeys)
}

fn read_keys(path: &Path) -> Result<Option<KeyFile>, SealError> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let bytes = Zeroizing::new(bytes);
            let file = KeyFile::decode(bytes.as_slice()).map_err(|_| malformed(path))?;
            Ok(Some(file))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SealError::ReadKeys {
            path: path.to_path_buf(),
            source,
        }),
    }
}

fn malformed(path: &Path) -> SealError {
    SealError::MalformedKeys {
        path: path.to_path_buf(),
    }
}

fn make_keys(path: &Path) -> Result<KeyFile, SealError> {
    let key: [u8; 32] = rand::random();
    let file = KeyFile {
        format: FORMAT,
        slots: vec![KeySlot {
            key_id: 1,
            wrapping: 0,
            nonce: Vec::new(),
            key: key.to_vec(),
        }],
        current: 1,
    };
    let bytes = Zeroizing::new(file.encode_to_vec());
    write_private(path, &bytes).map_err(SealError::WriteKeys)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_only_at_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("raft.key");
        let sealer = Sealer::open(&path, "swarm", "node", None).unwrap();
        let sealed = sealer.seal("log", 7, 3, b"secret").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        let again = Sealer::open(&path, "swarm", "node", None).unwrap();
        assert_eq!(again.unseal("log", 7, &sealed).unwrap(), (3, b"secret".to_vec()));
        assert!(again.unseal("log", 8, &sealed).is_err());
        assert!(again.unseal("meta", 7, &sealed).is_err());
        assert!(
            Sealer::open(&path, "other", "node", None)
                .unwrap()
                .unseal("log", 7, &sealed)
                .is_err()
        );
        assert!(
            Sealer::open(&path, "swarm", "other", None)
                .unwrap()
                .unseal("log", 7, &sealed)
                .is_err()
        );
    }

    #[test]
    fn a_locked_file_opens_with_its_key_alone_and_keeps_the_data_keys() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("raft.key");
        let sealed = Sealer::open(&path, "swarm", "node", None)
            .unwrap()
            .seal("log", 7, 3, b"secret")
            .unwrap();
        let (key, next) = (UnlockKey::new([1; 32]), UnlockKey::new([2; 32]));
        relock(&path, None, Some(&key)).unwrap();
        let opened = |key: Option<&UnlockKey>| Sealer::open(&path, "swarm", "node", key);
        assert!(matches!(opened(None), Err(SealError::Locked)));
        assert!(matches!(opened(Some(&next)), Err(SealError::Locked)));
        assert!(!opens(&path, None).unwrap() && opens(&path, Some(&key)).unwrap());
        let sealer = opened(Some(&key)).unwrap();
        assert_eq!(sealer.unseal("log", 7, &sealed).unwrap().1, b"secret");
        relock(&path, Some(&key), Some(&next)).unwrap();
        assert!(matches!(opened(Some(&key)), Err(SealError::Locked)));
        relock(&path, Some(&next), None).unwrap();
        assert_eq!(
            opened(None).unwrap().unseal("log", 7, &sealed).unwrap().1,
            b"secret"
        );
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let sealer = Sealer::open(&directory.path().join("raft.key"), "swarm", "node", None).unwrap();
        let sealed = sealer.seal("log", 7, 3, b"secret").unwrap();
        for position in 0..sealed.len() {
            let mut bytes = sealed.clone();
            bytes[position] ^= 0x40;
            assert!(sealer.unseal("log", 7, &bytes).is_err(), "byte {position}");
        }
    }
}
