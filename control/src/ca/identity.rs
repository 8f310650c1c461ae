//! Who a node is: its certificate and key and the root it trusts, as files of one directory.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::UnlockKey;
use super::authority;
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
    #[error("the key of the certificate in {path} is locked by another unlock key, or by one at all")]
    Locked { path: PathBuf },
}

const CERT: &str = "node.crt";
const ROOT: &str = "root.crt";
const KEY_MARK: &str = "-----BEGIN PRIVATE KEY-----";
/// What stands in place of the key while managers are locked.
const LOCKED_MARK: &str = "LOCKED PRIVATE KEY";

impl Identity {
    /// Reads the names out of the certificate; `None` when it is no node certificate.
    pub fn from_pem(cert_pem: String, key_pem: String, root_pem: String) -> Option<Identity> {
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).ok()?;
        let names = authority::names(&der)?;
        Some(Identity {
            node_id: names.node_id,
            cluster_id: names.cluster_id,
            role: names.role,
            cert_pem,
            key_pem,
            root_pem,
        })
    }

    /// The node id of the identity in a directory, also while it is locked.
    pub fn stored_node_id(directory: &Path) -> Result<Option<String>, IdentityError> {
        let bundle = read(&directory.join(CERT))?;
        let der = bundle.and_then(|bundle| CertificateDer::from_pem_slice(bundle.as_bytes()).ok());
        Ok(der
            .and_then(|der| authority::names(&der))
            .map(|names| names.node_id))
    }

    /// Reads the identity in a directory; `None` when there is none. `unlock` opens a key that is locked.
    pub fn load(directory: &Path, unlock: Option<&UnlockKey>) -> Result<Option<Identity>, IdentityError> {
        let path = directory.join(CERT);
        let Some(bundle) = read(&path)? else {
            return Ok(None);
        };
        let malformed = |reason: &str| IdentityError::Malformed {
            path: path.clone(),
            reason: reason.to_string(),
        };
        // Certificate and key are one file, so that a renewal replaces both at once.
        let parted = |mark: &str| bundle.find(mark).map(|at| bundle.split_at(at));
        let (cert_pem, key_pem) = match (parted(KEY_MARK), parted(LOCKED_MARK)) {
            (Some((cert, key)), _) => (cert, key.to_string()),
            (None, Some((cert, locked))) => {
                let opened = unlock.and_then(|unlock| open_key(unlock, cert, locked));
                let key = opened.ok_or_else(|| IdentityError::Locked { path: path.clone() })?;
                (cert, key)
            }
            (None, None) => return Err(malformed("it holds no private key")),
        };
        let root_pem =
            read(&directory.join(ROOT))?.ok_or_else(|| malformed("root.crt is missing beside it"))?;
        Identity::from_pem(cert_pem.to_string(), key_pem, root_pem)
            .map(Some)
            .ok_or_else(|| malformed("its names are not a node's"))
    }

    /// Writes the identity (mode 0600), its key locked with `lock` if there is one; after a crash the old or the new one is
    /// there.
    pub fn store(&self, directory: &Path, lock: Option<&UnlockKey>) -> Result<(), IdentityError> {
        let path = directory.join(CERT);
        let key = match lock {
            None => self.key_pem.clone(),
            Some(lock) => {
                lock_key(lock, &self.cert_pem, &self.key_pem).ok_or_else(|| IdentityError::Malformed {
                    path: path.clone(),
                    reason: "its key could not be locked".to_string(),
                })?
            }
        };
        write_private(&directory.join(ROOT), self.root_pem.as_bytes())?;
        let bundle = format!("{}{key}", self.cert_pem);
        write_private(&path, bundle.as_bytes())
    }

    /// When to renew: a point between 50 % and 80 % of the certificate's life, chosen by `chance` (0 to 1).
    /// Unix seconds; 0 when the certificate cannot be read.
    pub fn renew_at(&self, chance: f64) -> i64 {
        let Some(names) = CertificateDer::from_pem_slice(self.cert_pem.as_bytes())
            .ok()
            .and_then(|der| authority::names(&der))
        else {
            return 0;
        };
        let life = (names.not_after - names.not_before) as f64;
        names.not_before + (life * (0.5 + 0.3 * chance.clamp(0.0, 1.0))) as i64
    }
}

/// A locked key: nonce and ciphertext in base 64, bound to its certificate.
fn lock_key(lock: &UnlockKey, cert_pem: &str, key_pem: &str) -> Option<String> {
    let nonce: [u8; 24] = rand::random();
    let mut sealed = nonce.to_vec();
    sealed.extend(lock.seal(cert_pem.as_bytes(), key_pem.as_bytes(), nonce)?);
    Some(format!("{LOCKED_MARK}\n{}\n", STANDARD.encode(sealed)))
}

fn open_key(unlock: &UnlockKey, cert_pem: &str, locked: &str) -> Option<String> {
    let text = locked.strip_prefix(LOCKED_MARK)?.trim();
    let sealed = STANDARD.decode(text).ok()?;
    let (nonce, sealed) = sealed.split_at_checked(24)?;
    let plain = unlock.open(cert_pem.as_bytes(), sealed, nonce.try_into().ok()?)?;
    String::from_utf8(plain.to_vec()).ok()
}

fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::Read {
            path: path.to_path_buf(),
            source,
        }),
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use time::OffsetDateTime;

    use super::*;
    use crate::ca::Authority;
    use crate::ca::authority::{NODE_LIFE, make_request};

    #[test]
    fn an_identity_survives_the_disk_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(directory.path(), None).unwrap(), None);
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let authority = Authority::make(now).unwrap();
        let (key, csr) = make_request().unwrap();
        let cert = authority
            .sign(&csr, "n1", "c1", Role::Manager, now, NODE_LIFE)
            .unwrap();
        let identity = Identity::from_pem(cert, key, authority.root_pem).unwrap();
        identity.store(directory.path(), None).unwrap();
        assert_eq!(
            Identity::load(directory.path(), None).unwrap(),
            Some(identity.clone())
        );
        let mode = std::fs::metadata(directory.path().join(CERT))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let day = 86400;
        assert!((1_800_000_000 + 44 * day..1_800_000_000 + 46 * day).contains(&identity.renew_at(0.0)));
        assert!((1_800_000_000 + 71 * day..1_800_000_000 + 73 * day).contains(&identity.renew_at(1.0)));
    }
}
