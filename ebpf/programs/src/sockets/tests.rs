//! Destinations, guards, and what is remembered of them.

use super::*;
use proptest::prelude::*;

const TCP: u16 = 6;
const MESH: u32 = u32::from_ne_bytes([169, 254, 1, 1]);
const DEDICATED: u32 = u32::from_ne_bytes([169, 254, 128, 7]);
const OWN: [u8; 4] = [192, 0, 2, 1];
const BRIDGE: [u8; 4] = [172, 17, 0, 1];
const FLOATING: [u8; 4] = [192, 0, 2, 50];

/// Port 80 is published everywhere, 81 on the floating address alone, 53 everywhere; 127.0.0.53 answers DNS itself.
struct Fake;

impl Node for Fake {
    fn local(&mut self, address: &Address) -> Option<LocalAddressValue> {
        let (stand_in_be, outside) = match address.to_v4().map(u32::to_ne_bytes)? {
            OWN => (MESH, 1),
            BRIDGE => (MESH, 0),
            FLOATING => (DEDICATED, 1),
            _ => return None,
        };
        Some(LocalAddressValue { stand_in_be, outside })
    }

    fn mesh_address(&mut self) -> u32 {
        MESH
    }

    fn is_published(&mut self, protocol: u16, address_be: u32, port_be: u16) -> bool {
        protocol == TCP
            && match u16::from_be(port_be) {
                80 | 53 => address_be == MESH,
                81 => address_be == DEDICATED,
                _ => false,
            }
    }

    fn is_served(&mut self, _protocol: u16, address: &Address, port_be: u16) -> bool {
        *address == v4([127, 0, 0, 53]) && port_be == DNS_PORT_BE
    }
}

fn v4(octets: [u8; 4]) -> Address {
    Address::v4(u32::from_ne_bytes(octets))
}

fn v6(words: [u32; 4]) -> Address {
    Address {
        words_be: words.map(u32::to_be),
    }
}

#[test]
fn loopback_and_own_addresses_lead_to_the_mesh() {
    let dial = |address: &Address, port: u16| destination(&mut Fake, TCP, address, port.to_be());
    for octets in [[127, 0, 0, 1], [127, 9, 9, 9], OWN, BRIDGE] {
        assert_eq!(dial(&v4(octets), 80), Some(MESH), "{octets:?}");
        assert_eq!(dial(&v4(octets), 82), None, "{octets:?}");
    }
    assert_eq!(dial(&v6([0, 0, 0, 1]), 80), Some(MESH));
    assert_eq!(dial(&v6([0, 0, 0, 2]), 80), None);
    assert_eq!(dial(&v4([192, 0, 2, 2]), 80), None);
    assert_eq!(dial(&v4([0, 0, 0, 0]), 80), None);
    assert_eq!(destination(&mut Fake, 17, &v4(OWN), 80_u16.to_be()), None);
    // A dedicated address answers its own ports only.
    assert_eq!(dial(&v4(FLOATING), 80), None);
    assert_eq!(dial(&v4(FLOATING), 81), Some(DEDICATED));
    assert_eq!(dial(&v4(OWN), 81), None);
    // Who was there before is reached.
    assert_eq!(dial(&v4([127, 0, 0, 53]), 53), None);
    assert_eq!(dial(&v4([127, 0, 0, 1]), 53), Some(MESH));
}

#[test]
fn published_ports_are_nobody_elses() {
    let guarded = |address: &Address, port: u16| is_guarded(&mut Fake, TCP, address, port.to_be());
    let anywhere = [
        v4([0; 4]),
        v4([127, 0, 0, 1]),
        v4(OWN),
        v4(BRIDGE),
        v4([10, 0, 0, 1]),
    ];
    for address in anywhere {
        assert!(guarded(&address, 80), "{address:?}");
        assert!(!guarded(&address, 82), "{address:?}");
        assert!(!guarded(&address, 0), "{address:?}");
    }
    for address in [v6([0; 4]), v6([0, 0, 0, 1])] {
        assert!(guarded(&address, 80), "{address:?}");
    }
    assert!(!guarded(&v6([0xfd00_0000, 0, 0, 1]), 80));
    // Resolvers keep the addresses that are not the node's.
    assert!(guarded(&v4([0; 4]), 53) && guarded(&v4(OWN), 53));
    for address in [
        v4([127, 0, 0, 53]),
        v4(BRIDGE),
        v4([10, 0, 0, 1]),
        v6([0, 0, 0, 1]),
    ] {
        assert!(!guarded(&address, 53), "{address:?}");
    }
    assert!(guarded(&v4(FLOATING), 81) && !guarded(&v4(OWN), 81));
}

proptest! {
    /// As long as no more destinations are in use than there are slots, each answer comes from what was dialed last for it.
    #[test]
    fn what_was_dialed_is_recalled(dialed in proptest::collection::vec((0_u8..=255, 0_u16..DIALED_SLOTS as u16), 1..40)) {
        let mut value = DialedValue::default();
        let mut model = [None; DIALED_SLOTS];
        for (last, port) in dialed {
            let address = v4([127, 0, 0, last]);
            remember(&mut value, &address, MESH, port.to_be());
            model[usize::from(port)] = Some(address);
        }
        for (port, expected) in (0_u16..).zip(model) {
            prop_assert_eq!(recall(&value, MESH, port.to_be()), expected);
            prop_assert_eq!(recall(&value, DEDICATED, port.to_be()), None);
        }
    }
}

#[test]
fn the_oldest_destination_makes_room() {
    let mut value = DialedValue::default();
    for port in 0..=DIALED_SLOTS as u16 {
        remember(&mut value, &v4(OWN), MESH, port);
    }
    assert_eq!(recall(&value, MESH, 0), None);
    assert_eq!(recall(&value, MESH, DIALED_SLOTS as u16), Some(v4(OWN)));
}
