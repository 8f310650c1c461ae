//! Whether packets with another node's source address arrive: what mode `dsr` of published ports needs.
//!
//! Nodes send each other such datagrams, and each judges what it receives. A node whose probes come and whose foreign
//! datagrams do not sits behind something that drops them. IP (RFC 791), UDP (RFC 768).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ring::hmac;
use skep_control::model::Dsr;

/// Between two datagrams to a node.
pub const PERIOD: Duration = Duration::from_secs(5);
/// Several of them are lost before the network is blamed.
const PATIENCE: Duration = Duration::from_secs(22);
/// First bytes of the payload.
pub const MAGIC: u32 = u32::from_be_bytes(*b"skef");
const IP: usize = 20;
const UDP: usize = 8;
const SEALED: usize = 12;
/// The whole packet.
pub const LENGTH: usize = IP + UDP + SEALED + 32;
const UDP_PROTOCOL: u8 = 17;
const TTL: u8 = 64;

/// A datagram from `source`, which is not this node's, on the probes' port.
pub fn packet(
    key: &hmac::Key,
    (sender, source): (u32, Ipv4Addr),
    (receiver, destination): (u32, Ipv4Addr),
    port: u16,
) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    // The kernel fills in the total length, the id and the checksum (raw(7)); the UDP checksum may be left out.
    packet[0] = 0x45;
    packet[8] = TTL;
    packet[9] = UDP_PROTOCOL;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet[24..26].copy_from_slice(&((LENGTH - IP) as u16).to_be_bytes());
    packet[28..32].copy_from_slice(&MAGIC.to_be_bytes());
    packet[32..36].copy_from_slice(&sender.to_be_bytes());
    packet[36..40].copy_from_slice(&receiver.to_be_bytes());
    let tag = hmac::sign(key, &packet[IP + UDP..IP + UDP + SEALED]);
    packet[IP + UDP + SEALED..].copy_from_slice(tag.as_ref());
    packet
}

/// The sender of such a packet (from its IP header on) for node `own`.
pub fn sender(key: &hmac::Key, own: u32, packet: &[u8]) -> Option<u32> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let payload = packet.get(header + UDP..)?;
    let (sealed, tag) = payload.get(..SEALED + 32)?.split_at(SEALED);
    hmac::verify(key, sealed, tag).ok()?;
    let number = |at: usize| Some(u32::from_be_bytes(sealed.get(at..at + 4)?.try_into().ok()?));
    (number(0)? == MAGIC && number(8)? == own)
        .then(|| number(4))
        .flatten()
}

/// What this node has received. Times are since some moment before the first call.
#[derive(Debug, Default)]
pub struct Foreign {
    /// Since when a node's probes are answered without a break.
    answering: BTreeMap<u32, Duration>,
    heard: BTreeMap<u32, Duration>,
}

impl Foreign {
    pub fn hear(&mut self, node: u32, now: Duration) {
        self.heard.insert(node, now);
    }

    /// The verdict, and the nodes whose datagrams do not come. `answering`: nodes whose probes do.
    pub fn judge(&mut self, answering: &BTreeSet<u32>, now: Duration) -> (Dsr, BTreeSet<u32>) {
        self.answering.retain(|node, _| answering.contains(node));
        self.heard.retain(|node, _| answering.contains(node));
        for &node in answering {
            self.answering.entry(node).or_insert(now);
        }
        let is_recent = |at: Option<&Duration>| at.is_some_and(|&at| now < at + PATIENCE);
        let missing: BTreeSet<u32> = answering
            .iter()
            .copied()
            .filter(|node| !is_recent(self.answering.get(node)) && !is_recent(self.heard.get(node)))
            .collect();
        let verdict = if !missing.is_empty() {
            Dsr::Dropped
        } else if self.heard.is_empty() {
            Dsr::Unknown
        } else {
            Dsr::Works
        };
        (verdict, missing)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    proptest! {
        #[test]
        fn only_the_node_meant_with_the_key_reads_it(sender_index: u32, receiver: u32, other: u32, flip in 0..SEALED + 32) {
            let to = (receiver, Ipv4Addr::new(192, 0, 2, 2));
            let mut packet = packet(&key(1), (sender_index, Ipv4Addr::new(192, 0, 2, 9)), to, 7946);
            prop_assert_eq!(sender(&key(1), receiver, &packet), Some(sender_index));
            prop_assert_eq!(sender(&key(2), receiver, &packet), None);
            if other != receiver {
                prop_assert_eq!(sender(&key(1), other, &packet), None);
            }
            packet[IP + UDP + flip] ^= 1;
            prop_assert_eq!(sender(&key(1), receiver, &packet), None);
        }

        #[test]
        fn noise_is_no_packet(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(sender(&key(1), 1, &bytes), None);
        }
    }

    #[test]
    fn headers_are_as_the_standards_say() {
        let packet = packet(
            &key(1),
            (3, Ipv4Addr::new(192, 0, 2, 9)),
            (4, Ipv4Addr::new(192, 0, 2, 2)),
            7946,
        );
        let ip = [
            0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 9, 192, 0, 2, 2,
        ];
        assert_eq!(packet[..20], ip);
        assert_eq!(packet[20..28], [0x1f, 0x0a, 0x1f, 0x0a, 0, 52, 0, 0]);
        assert_eq!(packet[28..40], [b's', b'k', b'e', b'f', 0, 0, 0, 3, 0, 0, 0, 4]);
    }

    #[test]
    fn who_answers_and_is_not_heard_is_behind_a_filter() {
        let mut foreign = Foreign::default();
        let both = BTreeSet::from([2, 3]);
        assert_eq!(foreign.judge(&both, seconds(0)), (Dsr::Unknown, BTreeSet::new()));
        foreign.hear(2, seconds(5));
        assert_eq!(foreign.judge(&both, seconds(6)), (Dsr::Works, BTreeSet::new()));
        foreign.hear(2, seconds(20));
        assert_eq!(
            foreign.judge(&both, seconds(23)),
            (Dsr::Dropped, BTreeSet::from([3]))
        );
        foreign.hear(3, seconds(24));
        assert_eq!(foreign.judge(&both, seconds(25)).0, Dsr::Works);
        // A node that is gone says nothing about the network, and gets its time when it is back.
        assert_eq!(foreign.judge(&BTreeSet::from([2]), seconds(41)).0, Dsr::Works);
        foreign.hear(2, seconds(60));
        assert_eq!(foreign.judge(&both, seconds(61)).0, Dsr::Works);
        foreign.hear(2, seconds(80));
        assert_eq!(
            foreign.judge(&both, seconds(84)),
            (Dsr::Dropped, BTreeSet::from([3]))
        );
    }
}
