//! ARP (RFC 826): the packets that lead an address to this node, and when they are sent; the question to a router.

use std::net::Ipv4Addr;
use std::time::Duration;

/// Ethernet header and ARP packet for IPv4.
pub const LENGTH: usize = 42;
const BROADCAST: [u8; 6] = [0xff; 6];
const NOBODY: [u8; 6] = [0; 6];
/// Ethernet's type of ARP.
pub const ETHERTYPE: u16 = 0x0806;
/// Ethernet, IPv4, and the lengths of their addresses.
const KINDS: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// A take-over is told at once, and again for receivers that lost it or were not ready.
const FIRST: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(1000),
];
/// And from then on, for switches and hosts that come back late.
const LATER: Duration = Duration::from_secs(4);
const LAST: Duration = Duration::from_secs(60);

/// How long after the take-over the `nth` announcement (from 0 on) is due.
pub fn due(nth: usize) -> Option<Duration> {
    if let Some(&after) = FIRST.get(nth) {
        return Some(after);
    }
    let steps = u32::try_from(nth - FIRST.len() + 1).ok()?;
    let after = LATER.checked_mul(steps)?;
    (after <= LAST).then_some(after)
}

/// The announcement in both forms: some receivers renew their entry on a request, some on a reply (RFC 5944, 4.6).
pub fn announcement(mac: [u8; 6], address: Ipv4Addr) -> [[u8; LENGTH]; 2] {
    [
        frame(BROADCAST, REQUEST, (mac, address), (NOBODY, address)),
        frame(BROADCAST, REPLY, (mac, address), (mac, address)),
    ]
}

/// "Who has `target`?", asked of its last known MAC or of everybody.
pub fn question(mac: [u8; 6], own: Ipv4Addr, target: Ipv4Addr, known: Option<[u8; 6]>) -> [u8; LENGTH] {
    frame(known.unwrap_or(BROADCAST), REQUEST, (mac, own), (NOBODY, target))
}

/// Who answers in this frame, if it is an answer.
pub fn answerer(frame: &[u8]) -> Option<(Ipv4Addr, [u8; 6])> {
    let frame: &[u8; LENGTH] = frame.get(..LENGTH)?.try_into().ok()?;
    let is_reply =
        frame[12..14] == ETHERTYPE.to_be_bytes() && frame[14..20] == KINDS && frame[20..22] == [0, REPLY];
    let address: [u8; 4] = frame[28..32].try_into().ok()?;
    is_reply.then_some((address.into(), frame[22..28].try_into().ok()?))
}

fn frame(
    to: [u8; 6],
    operation: u8,
    sender: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
) -> [u8; LENGTH] {
    let mut frame = [0; LENGTH];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&sender.0);
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    frame[14..20].copy_from_slice(&KINDS);
    frame[21] = operation;
    frame[22..28].copy_from_slice(&sender.0);
    frame[28..32].copy_from_slice(&sender.1.octets());
    frame[32..38].copy_from_slice(&target.0);
    frame[38..].copy_from_slice(&target.1.octets());
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 100);

    #[test]
    fn both_forms_are_as_the_standard_says() {
        let [request, reply] = announcement(MAC, ADDRESS);
        let golden = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0,
            0, 1, 192, 168, 50, 100, 0, 0, 0, 0, 0, 0, 192, 168, 50, 100,
        ];
        assert_eq!(request, golden);
        let mut expected = golden;
        expected[21] = 2;
        expected[32..38].copy_from_slice(&MAC);
        assert_eq!(reply, expected);
    }

    #[test]
    fn told_at_once_and_then_for_a_minute() {
        let times: Vec<u128> = (0..).map_while(due).map(|after| after.as_millis()).collect();
        assert_eq!(times[..7], [0, 20, 100, 300, 1000, 4000, 8000]);
        assert_eq!(times.last(), Some(&60_000));
        assert!(times.is_sorted());
        assert_eq!(due(usize::MAX), None);
    }

    proptest! {
        #[test]
        fn an_answer_names_its_sender(mac: [u8; 6], address: [u8; 4], tail in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut bytes = announcement(mac, address.into())[1].to_vec();
            bytes.extend(tail);
            prop_assert_eq!(answerer(&bytes), Some((address.into(), mac)));
            // A question is no answer.
            prop_assert_eq!(answerer(&question(mac, address.into(), ADDRESS, None)), None);
        }

        #[test]
        fn noise_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some((address, mac)) = answerer(&bytes) {
                prop_assert_eq!(&bytes[22..28], &mac);
                prop_assert_eq!(&bytes[28..32], &address.octets());
            }
        }
    }
}
