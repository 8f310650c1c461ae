//! The bytes of a probe: fixed fields, the list of missed nodes, and an HMAC-SHA256 over all of it.
//!
//! Layout, numbers in network order: magic and version (4 bytes), sender u32, receiver u32, boot u64,
//! sequence u64, acknowledged boot u64, acknowledged sequence u64, hold in microseconds u32, number of
//! missed nodes u16, that many indexes u32, tag (32 bytes).

use ring::hmac;

/// "SKP" and the version of the format. A node ignores versions it does not know.
const MAGIC: [u8; 4] = *b"SKP\x01";
const FIXED_LEN: usize = 50;
const TAG_LEN: usize = 32;
/// Keeps a probe below 1232 bytes, which every underlay carries whole.
pub const MAX_MISSED: usize = 256;
/// The longest valid probe.
pub const MAX_LEN: usize = FIXED_LEN + 4 * MAX_MISSED + TAG_LEN;

/// One probe. Each is also the answer to the receiver's latest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Node index of the sender.
    pub sender: u32,
    /// Node index of the receiver: a probe recorded on one path is of no use on another.
    pub receiver: u32,
    /// Drawn when the sender's agent started; never 0.
    pub boot: u64,
    /// Rises with each round of the sender's probes.
    pub sequence: u64,
    /// Boot of the receiver's latest probe; 0 when none was heard.
    pub ack_boot: u64,
    /// Sequence of the receiver's latest probe.
    pub ack_sequence: u64,
    /// Microseconds from that probe's arrival to the sending of this one.
    pub hold_us: u32,
    /// Node indexes that the sender misses, at most [`MAX_MISSED`].
    pub missed: Vec<u32>,
}

impl Message {
    /// The bytes to send.
    pub fn seal(&self, key: &hmac::Key) -> Vec<u8> {
        let missed = &self.missed[..self.missed.len().min(MAX_MISSED)];
        let mut bytes = Vec::with_capacity(FIXED_LEN + 4 * missed.len() + TAG_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.sender.to_be_bytes());
        bytes.extend_from_slice(&self.receiver.to_be_bytes());
        bytes.extend_from_slice(&self.boot.to_be_bytes());
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.ack_boot.to_be_bytes());
        bytes.extend_from_slice(&self.ack_sequence.to_be_bytes());
        bytes.extend_from_slice(&self.hold_us.to_be_bytes());
        // At most MAX_MISSED, so it fits.
        bytes.extend_from_slice(&(missed.len() as u16).to_be_bytes());
        for index in missed {
            bytes.extend_from_slice(&index.to_be_bytes());
        }
        let tag = hmac::sign(key, &bytes);
        bytes.extend_from_slice(tag.as_ref());
        bytes
    }

    /// Reads a probe; None for anything that is not one sealed with this key.
    pub fn open(key: &hmac::Key, bytes: &[u8]) -> Option<Self> {
        let (body, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG_LEN)?)?;
        if body.len() < FIXED_LEN || body.len() > FIXED_LEN + 4 * MAX_MISSED {
            return None;
        }
        hmac::verify(key, body, tag).ok()?;
        let mut rest = body;
        if take::<4>(&mut rest)? != MAGIC {
            return None;
        }
        let message = Self {
            sender: u32::from_be_bytes(take(&mut rest)?),
            receiver: u32::from_be_bytes(take(&mut rest)?),
            boot: u64::from_be_bytes(take(&mut rest)?),
            sequence: u64::from_be_bytes(take(&mut rest)?),
            ack_boot: u64::from_be_bytes(take(&mut rest)?),
            ack_sequence: u64::from_be_bytes(take(&mut rest)?),
            hold_us: u32::from_be_bytes(take(&mut rest)?),
            missed: Vec::new(),
        };
        let count = u16::from_be_bytes(take(&mut rest)?);
        if rest.len() != 4 * usize::from(count) {
            return None;
        }
        let mut missed = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            missed.push(u32::from_be_bytes(take(&mut rest)?));
        }
        Some(Self { missed, ..message })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let numbers = (
            any::<u32>(),
            any::<u32>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
        );
        let missed = proptest::collection::vec(any::<u32>(), 0..=MAX_MISSED);
        (numbers, any::<u32>(), missed).prop_map(|(n, hold_us, missed)| Message {
            sender: n.0,
            receiver: n.1,
            boot: n.2,
            sequence: n.3,
            ack_boot: n.4,
            ack_sequence: n.5,
            hold_us,
            missed,
        })
    }

    #[test]
    fn the_layout_does_not_move() {
        let message = Message {
            sender: 1,
            receiver: 2,
            boot: 3,
            sequence: 4,
            ack_boot: 5,
            ack_sequence: 6,
            hold_us: 7,
            missed: vec![8],
        };
        let bytes = message.seal(&key(1));
        let mut expected = b"SKP\x01".to_vec();
        expected.extend([0, 0, 0, 1, 0, 0, 0, 2]);
        for number in 3u64..=6 {
            expected.extend(number.to_be_bytes());
        }
        expected.extend([0, 0, 0, 7, 0, 1, 0, 0, 0, 8]);
        assert_eq!(bytes[..bytes.len() - TAG_LEN], expected);
    }

    proptest! {
        #[test]
        fn opens_what_it_sealed(message in any_message()) {
            let bytes = message.seal(&key(1));
            prop_assert!(bytes.len() <= MAX_LEN);
            prop_assert_eq!(Message::open(&key(1), &bytes), Some(message));
        }

        #[test]
        fn another_key_or_a_changed_bit_opens_nothing(
            message in any_message(), at: prop::sample::Index, bit in 0u8..8,
        ) {
            let mut bytes = message.seal(&key(1));
            prop_assert_eq!(Message::open(&key(2), &bytes), None);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(Message::open(&key(1), &bytes), None);
        }

        #[test]
        fn any_bytes_are_survived(body in proptest::collection::vec(any::<u8>(), 0..1500)) {
            prop_assert_eq!(Message::open(&key(1), &body), None);
            // With a valid tag too: a peer of another version may send anything.
            let tag = hmac::sign(&key(1), &body);
            let sealed = [body.as_slice(), tag.as_ref()].concat();
            if let Some(message) = Message::open(&key(1), &sealed) {
                prop_assert_eq!(message.seal(&key(1)), sealed);
            }
        }
    }
}
