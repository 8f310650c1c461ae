//! What one judge makes of what it is told. Judges among each other: see the simulation.

use proptest::prelude::*;

use super::*;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn judge(index: u32, boot: u64, peer: u32) -> Judge {
    let mut judge = Judge::new(index, boot, ms(0));
    judge.set_peers(&BTreeSet::from([peer]), ms(0));
    judge
}

#[test]
fn the_round_trip_is_without_the_wait_at_the_other_end() {
    let (mut one, mut other) = (judge(1, 10, 2), judge(2, 20, 1));
    let probe = one.envelope(2, ms(0)).unwrap();
    other.receive(&probe, ms(30));
    let answer = other.envelope(1, ms(100)).unwrap();
    assert!(one.receive(&answer, ms(130)));
    assert_eq!(one.rtt()[&2], ms(60));
}

#[test]
fn a_recorded_datagram_neither_proves_nor_displaces() {
    let (mut one, mut other) = (judge(1, 10, 2), judge(2, 20, 1));
    let first = one.envelope(2, ms(0)).unwrap();
    assert!(!other.receive(&first, ms(1)), "acknowledges nothing yet");
    let answer = other.envelope(1, ms(2)).unwrap();
    assert!(one.receive(&answer, ms(3)));
    one.report(2, &[], ms(3));
    assert!(!one.receive(&answer, ms(4)), "doubled");
    // From an earlier life of the peer, with a sequence that is higher than today's.
    let recorded = Envelope {
        boot: 5,
        sequence: 999,
        ack_boot: 9,
        ..answer
    };
    assert!(!one.receive(&recorded, ms(5)));
    assert_eq!(one.envelope(2, ms(6)).unwrap().ack_boot, 20);
    // One that acknowledges a datagram of long ago is no sign of life, and at last not believed.
    let late = |sequence| Envelope { sequence, ..answer };
    one.receive(&late(2), ms(2100));
    assert_eq!(one.silence(2, ms(2100)), ms(0), "this one was starved itself");
    for step in 1..=20 {
        one.judge(ms(2100 + 100 * step));
    }
    assert_eq!(one.silence(2, ms(4100)), ms(2000));
    assert!(!one.receive(&late(3), ms(4101)));
}

proptest! {
    #[test]
    fn whatever_is_said_a_node_never_marks_itself_or_a_stranger(
        said in proptest::collection::vec(
            (0u32..6, 0u64..3, 0u64..20, 0u64..3, 0u64..20, proptest::collection::vec(0u32..6, 0..6), 0u64..900),
            0..60,
        ),
    ) {
        let mut judge = Judge::new(1, 1, Duration::ZERO);
        let peers = BTreeSet::from([1, 2, 3, 4]);
        judge.set_peers(&peers, Duration::ZERO);
        let mut now = Duration::ZERO;
        for (sender, boot, sequence, ack_boot, ack_sequence, missed, wait) in said {
            now += ms(wait);
            let (receiver, hold_us) = (1, u32::MAX);
            let envelope = Envelope { sender, receiver, boot, sequence, ack_boot, ack_sequence, hold_us };
            if judge.receive(&envelope, now) {
                judge.report(sender, &missed, now);
            }
            judge.judge(now);
            prop_assert_eq!(judge.envelope(sender, now).is_some(), (2..=4).contains(&sender));
            let alive = judge.alive();
            prop_assert_eq!(alive.keys().copied().collect::<Vec<_>>(), vec![2, 3, 4]);
        }
    }
}
