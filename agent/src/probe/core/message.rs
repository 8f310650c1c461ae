//! The bytes of a datagram between nodes: an envelope, parts of several kinds, and an HMAC-SHA256 over all of it.
//!
//! Layout, numbers in network order: magic and version (4 bytes), sender u32, receiver u32, boot u64, sequence u64,
//! acknowledged boot u64, acknowledged sequence u64, hold in microseconds u32, the parts, tag (32 bytes).
//! Each part: kind u8, length of its body u16, body. Every datagram is a probe, whatever its parts.

pub mod part;

use ring::hmac;

pub use part::{Answer, Claim, Part, Tenure, Verdict};

use part::{Reader, Writer};

/// "SKP" and the version of the format. A node ignores versions it does not know.
const MAGIC: [u8; 4] = *b"SKP\x02";
const HEAD_LEN: usize = 48;
const TAG_LEN: usize = 32;
/// Keeps a datagram within 1232 bytes, which every underlay carries whole.
pub const MAX_LEN: usize = 1232;
/// What all parts of one datagram may take.
pub const MAX_PARTS_LEN: usize = MAX_LEN - HEAD_LEN - TAG_LEN;

/// Who sends to whom, and what it has heard: each datagram is also the answer to the receiver's latest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Node index of the sender.
    pub sender: u32,
    /// Node index of the receiver: a datagram recorded on one path is of no use on another.
    pub receiver: u32,
    /// Drawn when the sender's agent started; never 0.
    pub boot: u64,
    /// Rises with each of the sender's datagrams.
    pub sequence: u64,
    /// Boot of the receiver's latest datagram; 0 when none was heard.
    pub ack_boot: u64,
    /// Sequence of the receiver's latest datagram.
    pub ack_sequence: u64,
    /// Microseconds from that one's arrival to the sending of this one.
    pub hold_us: u32,
}

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub envelope: Envelope,
    pub parts: Vec<Part>,
}

impl Message {
    /// The bytes to send. Parts beyond [`MAX_PARTS_LEN`] are left out: whoever packs them looks at their length.
    pub fn seal(&self, key: &hmac::Key) -> Vec<u8> {
        let envelope = &self.envelope;
        let mut writer = Writer::default();
        writer.bytes(&MAGIC);
        writer.u32(envelope.sender);
        writer.u32(envelope.receiver);
        writer.u64(envelope.boot);
        writer.u64(envelope.sequence);
        writer.u64(envelope.ack_boot);
        writer.u64(envelope.ack_sequence);
        writer.u32(envelope.hold_us);
        for part in &self.parts {
            let bytes = part.to_bytes();
            if writer.0.len() + bytes.len() + TAG_LEN <= MAX_LEN {
                writer.bytes(&bytes);
            }
        }
        let tag = hmac::sign(key, &writer.0);
        writer.bytes(tag.as_ref());
        writer.0
    }

    /// Reads a datagram; None for anything that is not one sealed with this key. Parts of unknown kinds are left out.
    pub fn open(key: &hmac::Key, bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_LEN {
            return None;
        }
        let (body, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG_LEN)?)?;
        if body.len() < HEAD_LEN {
            return None;
        }
        hmac::verify(key, body, tag).ok()?;
        let mut reader = Reader(body);
        if reader.take::<4>()? != MAGIC {
            return None;
        }
        let envelope = Envelope {
            sender: reader.u32()?,
            receiver: reader.u32()?,
            boot: reader.u64()?,
            sequence: reader.u64()?,
            ack_boot: reader.u64()?,
            ack_sequence: reader.u64()?,
            hold_us: reader.u32()?,
        };
        let mut parts = Vec::new();
        while !reader.0.is_empty() {
            parts.extend(Part::read(&mut reader)?);
        }
        Some(Self { envelope, parts })
    }
}

#[cfg(test)]
mod tests;
