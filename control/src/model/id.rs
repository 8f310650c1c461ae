//! Identities. Object ids are 25 characters of [0-9a-z], as Swarm's; Raft and node numbers come from
//! committed counters and are never reused.

/// Number of a Raft member. Never reused: a wiped manager that joins again gets a new one.
pub type RaftId = u64;
/// Number of a node in the data plane's tables. Never reused while the swarm lives.
pub type NodeIndex = u32;

/// Length of an object id.
pub const ID_LEN: usize = 25;
const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// An object id made from 16 random bytes.
pub fn object_id(random: [u8; 16]) -> String {
    let mut value = u128::from_be_bytes(random);
    let mut text = [b'0'; ID_LEN];
    for digit in text.iter_mut().rev() {
        *digit = ALPHABET[(value % 36) as usize];
        value /= 36;
    }
    text.iter().map(|&b| b as char).collect()
}

/// Whether `text` has the form of a full object id.
pub fn is_object_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_swarm_form() {
        assert!(is_object_id(&object_id([0; 16])));
        assert!(is_object_id(&object_id([255; 16])));
        assert_ne!(object_id([1; 16]), object_id([2; 16]));
        assert!(!is_object_id("WEB"));
    }
}
