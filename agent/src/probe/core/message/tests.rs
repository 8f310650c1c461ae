//! The layout does not move, what is sealed opens, and any bytes are survived.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::part::{MAX_HASHES, MAX_NODES};
use super::*;
use crate::probe::core::held::Reason;
use crate::probe::core::watched::Lease;

fn key(byte: u8) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
}

fn any_envelope() -> impl Strategy<Value = Envelope> {
    let numbers = (any::<[u64; 4]>(), any::<[u32; 3]>());
    numbers.prop_map(|(long, short)| Envelope {
        sender: short[0],
        receiver: short[1],
        boot: long[0],
        sequence: long[1],
        ack_boot: long[2],
        ack_sequence: long[3],
        hold_us: short[2],
    })
}

fn any_tenure() -> impl Strategy<Value = Tenure> {
    let reason = prop_oneof![
        Just(Reason::Nobody),
        Just(Reason::FirstHolder),
        any::<u32>().prop_map(Reason::LeaseEnded),
        any::<u32>().prop_map(Reason::HandedOver),
        any::<u32>().prop_map(Reason::GaveUp),
    ];
    (any::<[u64; 2]>(), option::of(any::<u32>()), reason).prop_map(|(numbers, previous, reason)| Tenure {
        term: numbers[0],
        since_unix_ms: numbers[1],
        previous,
        reason,
    })
}

fn any_claim() -> impl Strategy<Value = Part> {
    (
        any::<u32>(),
        any::<[u64; 3]>(),
        any::<bool>(),
        option::of(any_tenure()),
    )
        .prop_map(|(index, numbers, renews, tenure)| {
            Part::Claim(Claim {
                index,
                epoch: numbers[0],
                observers: numbers[1],
                number: numbers[2],
                renews,
                tenure,
            })
        })
}

fn any_answer() -> impl Strategy<Value = Part> {
    let verdict = prop_oneof![
        Just(Verdict::Granted),
        Just(Verdict::OtherObservers),
        (option::of(any::<u32>()), any::<u32>()).prop_map(|(to, left)| Verdict::Denied {
            to,
            left: Duration::from_micros(left.into()),
        }),
    ];
    (any::<u32>(), any::<[u64; 3]>(), verdict, option::of(any::<u32>())).prop_map(
        |(index, numbers, verdict, holder)| {
            Part::Answer(Answer {
                index,
                number: numbers[0],
                epoch: numbers[1],
                verdict,
                term: numbers[2],
                holder,
            })
        },
    )
}

fn any_part() -> impl Strategy<Value = Part> {
    let nodes = || vec(any::<u32>(), 0..20);
    prop_oneof![
        nodes().prop_map(Part::Missed),
        (any::<u64>(), any::<u16>(), any::<u16>(), vec(any::<u64>(), 0..20)).prop_map(
            |(generation, piece, pieces, hashes)| Part::Withdrawn {
                generation,
                piece,
                pieces,
                hashes
            }
        ),
        any_claim(),
        any_answer(),
        (any::<u32>(), any::<u64>(), any::<u32>()).prop_map(|(index, number, to)| Part::Transfer {
            index,
            number,
            to
        }),
        any::<u32>().prop_map(|index| Part::Refuse { index }),
        (any::<u32>(), any::<u64>()).prop_map(|(index, number)| Part::Release { index, number }),
        (any::<u32>(), any_tenure()).prop_map(|(index, tenure)| Part::Holder { index, tenure }),
        (any::<u32>(), any::<u64>(), nodes(), nodes()).prop_map(|(index, epoch, owners, observers)| {
            Part::Config(Lease {
                index,
                epoch,
                owners,
                observers,
            })
        }),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    (any_envelope(), vec(any_part(), 0..4)).prop_map(|(envelope, parts)| Message { envelope, parts })
}

const ENVELOPE: Envelope = Envelope {
    sender: 1,
    receiver: 2,
    boot: 3,
    sequence: 4,
    ack_boot: 5,
    ack_sequence: 6,
    hold_us: 7,
};

/// The head of [`ENVELOPE`].
fn head() -> Vec<u8> {
    let mut head = b"SKP\x02".to_vec();
    head.extend([0, 0, 0, 1, 0, 0, 0, 2]);
    for number in 3u64..=6 {
        head.extend(number.to_be_bytes());
    }
    head.extend([0, 0, 0, 7]);
    head
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn the_layout_does_not_move() {
    let tenure = Tenure {
        term: 0x0a,
        since_unix_ms: 0x0b,
        previous: Some(0x0c),
        reason: Reason::HandedOver(0x0d),
    };
    let parts = [
        (Part::Missed(vec![8]), "01 0006 0001 00000008"),
        (
            Part::Withdrawn {
                generation: 1,
                piece: 2,
                pieces: 3,
                hashes: vec![4],
            },
            "02 0016 0000000000000001 0002 0003 0001 0000000000000004",
        ),
        (
            Part::Claim(Claim {
                index: 1,
                epoch: 2,
                observers: 3,
                number: 4,
                renews: true,
                tenure: Some(tenure),
            }),
            "03 0039 00000001 0000000000000002 0000000000000003 0000000000000004 01 01 \
             000000000000000a 000000000000000b 01 0000000c 03 01 0000000d",
        ),
        (
            Part::Answer(Answer {
                index: 1,
                number: 2,
                epoch: 3,
                verdict: Verdict::Denied {
                    to: Some(4),
                    left: Duration::from_micros(5),
                },
                term: 6,
                holder: None,
            }),
            "04 002b 00000001 0000000000000002 0000000000000003 01 01 00000004 00000005 0000000000000006 00 00000000",
        ),
        (
            Part::Transfer {
                index: 1,
                number: 2,
                to: 3,
            },
            "05 0010 00000001 0000000000000002 00000003",
        ),
        (Part::Refuse { index: 1 }, "06 0004 00000001"),
        (
            Part::Release { index: 1, number: 2 },
            "07 000c 00000001 0000000000000002",
        ),
        (
            Part::Holder { index: 1, tenure },
            "08 001f 00000001 000000000000000a 000000000000000b 01 0000000c 03 01 0000000d",
        ),
        (
            Part::Config(Lease {
                index: 1,
                epoch: 2,
                owners: vec![3],
                observers: vec![4],
            }),
            "09 0018 00000001 0000000000000002 0001 00000003 0001 00000004",
        ),
    ];
    for (part, expected) in parts {
        let message = Message {
            envelope: ENVELOPE,
            parts: vec![part.clone()],
        };
        let bytes = message.seal(&key(1));
        let body = &bytes[..bytes.len() - TAG_LEN];
        assert_eq!(body, [head(), hex(expected)].concat(), "{part:?}");
    }
}

#[test]
fn the_former_version_is_ignored() {
    let mut body = head();
    body[3] = 1;
    let tag = hmac::sign(&key(1), &body);
    assert_eq!(Message::open(&key(1), &[&body, tag.as_ref()].concat()), None);
}

#[test]
fn unknown_kinds_are_skipped_and_the_rest_is_read() {
    let refuse = Part::Refuse { index: 1 };
    let body = [head(), hex("c8 0002 ffff"), refuse.to_bytes()].concat();
    let tag = hmac::sign(&key(1), &body);
    let message = Message::open(&key(1), &[&body, tag.as_ref()].concat()).unwrap();
    assert_eq!(message.parts, [refuse]);
}

#[test]
fn the_longest_lists_fit_one_datagram() {
    let missed = Part::Missed((0..MAX_NODES as u32).collect());
    let withdrawn = Part::Withdrawn {
        generation: 1,
        piece: 0,
        pieces: 1,
        hashes: (0..MAX_HASHES as u64).collect(),
    };
    for part in [missed, withdrawn] {
        assert!(part.to_bytes().len() <= MAX_PARTS_LEN);
        let message = Message {
            envelope: ENVELOPE,
            parts: vec![part],
        };
        assert_eq!(Message::open(&key(1), &message.seal(&key(1))), Some(message));
    }
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
    fn any_bytes_are_survived(body in vec(any::<u8>(), 0..1500), kind in 0u8..11, length in 0u16..80) {
        prop_assert_eq!(Message::open(&key(1), &body), None);
        // With a valid tag too, and with a part that may be anything: a peer of another version may send it.
        let part = [&[kind][..], &length.to_be_bytes(), &body].concat();
        for body in [body, [head(), part].concat()] {
            let tag = hmac::sign(&key(1), &body);
            let sealed = [body.as_slice(), tag.as_ref()].concat();
            if let Some(message) = Message::open(&key(1), &sealed) {
                let again = message.seal(&key(1));
                prop_assert_eq!(Message::open(&key(1), &again), Some(message));
            }
        }
    }
}
