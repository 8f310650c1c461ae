//! The unlock key of a swarm whose managers are locked, and sealing with it (swarmkit manager/encryption).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use ring::digest::{Context, SHA256};
use zeroize::Zeroizing;

const PREFIX: &str = "SWMKEY-1-";
/// Sets this use of the key apart from any other.
const DOMAIN: &[u8] = b"skep manager lock 1";

/// Swarm's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid key string")]
pub struct InvalidKey;

/// What `docker swarm unlock` asks for. Never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct UnlockKey(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UnlockKey")
    }
}

impl UnlockKey {
    pub fn new(random: [u8; 32]) -> UnlockKey {
        UnlockKey(Zeroizing::new(random.to_vec()))
    }

    /// `SWMKEY-1-` and base 64 without padding.
    pub fn parse(text: &str) -> Result<UnlockKey, InvalidKey> {
        let rest = text.strip_prefix(PREFIX).ok_or(InvalidKey)?;
        let bytes = STANDARD_NO_PAD.decode(rest).map_err(|_| InvalidKey)?;
        Ok(UnlockKey(Zeroizing::new(bytes)))
    }

    /// The key that a swarm's record holds; `None` where it is empty: managers are not locked. What is damaged is an error, and
    /// never taken for no lock.
    pub fn stored(text: &str) -> Result<Option<UnlockKey>, InvalidKey> {
        if text.is_empty() {
            return Ok(None);
        }
        Self::parse(text).map(Some)
    }

    pub fn text(&self) -> String {
        format!("{PREFIX}{}", STANDARD_NO_PAD.encode(&*self.0))
    }

    /// Seals `plain` for the place that `place` names. `None`: the cipher refused.
    pub fn seal(&self, place: &[u8], plain: &[u8], nonce: [u8; 24]) -> Option<Vec<u8>> {
        let payload = Payload {
            msg: plain,
            aad: place,
        };
        self.cipher().encrypt(&XNonce::from(nonce), payload).ok()
    }

    /// `None`: another key, another place, or damaged.
    pub fn open(&self, place: &[u8], sealed: &[u8], nonce: [u8; 24]) -> Option<Zeroizing<Vec<u8>>> {
        let payload = Payload {
            msg: sealed,
            aad: place,
        };
        let opened = self.cipher().decrypt(&XNonce::from(nonce), payload);
        opened.ok().map(Zeroizing::new)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        let mut context = Context::new(&SHA256);
        context.update(DOMAIN);
        context.update(&self.0);
        let mut key = Zeroizing::new([0u8; 32]);
        key.copy_from_slice(context.finish().as_ref());
        XChaCha20Poly1305::new(&(*key).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_as_it_is_shown() {
        let key = UnlockKey::new([7; 32]);
        assert!(key.text().starts_with("SWMKEY-1-") && key.text().len() == 9 + 43);
        assert_eq!(UnlockKey::parse(&key.text()), Ok(key));
        for bad in ["", "SWMKEY-2-AAAA", "SWMKEY-1-=", "SWMTKN-1-x"] {
            assert_eq!(UnlockKey::parse(bad), Err(InvalidKey), "{bad}");
        }
    }

    #[test]
    fn a_damaged_key_is_not_no_lock() {
        let key = UnlockKey::new([7; 32]);
        assert_eq!(UnlockKey::stored(""), Ok(None));
        assert_eq!(UnlockKey::stored(&key.text()), Ok(Some(key)));
        assert_eq!(UnlockKey::stored("SWMKEY-1-="), Err(InvalidKey));
    }

    #[test]
    fn only_the_same_key_opens_at_the_same_place() {
        let key = UnlockKey::new([7; 32]);
        let sealed = key.seal(b"here", b"secret", [1; 24]).unwrap();
        assert_eq!(key.open(b"here", &sealed, [1; 24]).unwrap().as_slice(), b"secret");
        assert!(key.open(b"there", &sealed, [1; 24]).is_none());
        assert!(UnlockKey::new([8; 32]).open(b"here", &sealed, [1; 24]).is_none());
    }
}
