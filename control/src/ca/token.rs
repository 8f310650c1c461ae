//! Join tokens in Swarm's format: `SWMTKN-1-<SHA-256 of the root certificate>-<16 random bytes>`, both base 36.

use ring::digest::{SHA256, digest};

const PREFIX: &str = "SWMTKN-1-";
const DIGEST_LEN: usize = 50;
const SECRET_LEN: usize = 25;
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A token taken apart (swarmkit ca/certificates.go `ParseJoinToken`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the root certificate's PEM text.
    pub root_digest: [u8; 32],
}

/// Swarm's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid join token")]
pub struct InvalidToken;

/// SHA-256 of a root certificate as tokens name it: over the PEM text, as swarmkit does.
pub fn root_digest(root_pem: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, root_pem.as_bytes()).as_ref());
    bytes
}

/// Lower-case hex, as Swarm shows fingerprints.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A token for the root certificate with a secret made from 16 random bytes.
pub fn make(root_pem: &str, random: [u8; 16]) -> String {
    format!(
        "{PREFIX}{}-{}",
        base36(&root_digest(root_pem), DIGEST_LEN),
        base36(&random, SECRET_LEN)
    )
}

/// Checks the form and takes the digest out.
pub fn parse(text: &str) -> Result<JoinToken, InvalidToken> {
    let (digest, secret) = text
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-'))
        .ok_or(InvalidToken)?;
    if digest.len() != DIGEST_LEN
        || secret.len() != SECRET_LEN
        || !secret.bytes().all(|b| DIGITS.contains(&b))
    {
        return Err(InvalidToken);
    }
    Ok(JoinToken {
        root_digest: from_base36(digest).ok_or(InvalidToken)?,
    })
}

/// Compares in a time that depends only on the lengths.
pub fn same(presented: &str, stored: &str) -> bool {
    if presented.len() != stored.len() {
        return false;
    }
    let differing = presented
        .bytes()
        .zip(stored.bytes())
        .fold(0u8, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
    differing == 0
}

/// Big-endian bytes as base 36, padded on the left with zeros.
fn base36(bytes: &[u8], len: usize) -> String {
    let mut number = bytes.to_vec();
    let mut text = vec![b'0'; len];
    for digit in text.iter_mut().rev() {
        let mut rest = 0u32;
        for byte in number.iter_mut() {
            let value = (rest << 8) | u32::from(*byte);
            *byte = (value / 36) as u8;
            rest = value % 36;
        }
        *digit = DIGITS[rest as usize];
    }
    text.iter().map(|&b| b as char).collect()
}

/// `None` for a foreign digit or a number of more than 256 bits.
fn from_base36(text: &str) -> Option<[u8; 32]> {
    let mut number = [0u8; 32];
    for character in text.bytes() {
        let mut carry = DIGITS.iter().position(|&digit| digit == character)? as u32;
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * 36 + carry;
            *byte = value as u8;
            carry = value >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_has_swarm_form_and_names_its_root() {
        let token = make("root", [255; 16]);
        assert_eq!(token.len(), "SWMTKN-1-".len() + 50 + 1 + 25);
        assert_eq!(parse(&token).unwrap().root_digest, root_digest("root"));
        // 2^128 - 1 in base 36.
        assert!(token.ends_with("-f5lxx1zz5pnorynqglhzmsp33"));
    }

    #[test]
    fn malformed_tokens_are_refused() {
        let token = make("root", [1; 16]);
        for bad in [
            "",
            "SWMTKN-1-",
            &token[1..],
            &token[..token.len() - 1],
            &token.to_uppercase(),
            &format!("SWMTKN-1-{}-{}", "z".repeat(50), "0".repeat(25)),
        ] {
            assert_eq!(parse(bad), Err(InvalidToken), "{bad}");
        }
    }

    #[test]
    fn comparison_sees_every_byte() {
        let token = make("root", [1; 16]);
        assert!(same(&token, &token.clone()));
        for position in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[position] ^= 1;
            assert!(!same(&token, std::str::from_utf8(&other).unwrap()));
        }
    }

    proptest! {
        #[test]
        fn base36_round_trips(bytes in any::<[u8; 32]>()) {
            prop_assert_eq!(from_base36(&base36(&bytes, DIGEST_LEN)), Some(bytes));
        }
    }
}
