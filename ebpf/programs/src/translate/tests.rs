//! Properties: there and back is the same packet; every checksum stays right.

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::checksum::{finish, fold, pseudo, sum};
use crate::packet::memory::MemoryPacket;
use crate::parse::{self, ICMP};

fn tuple() -> impl Strategy<Value = Tuple> {
    (any::<[u32; 2]>(), any::<[u16; 2]>()).prop_map(|(a, p)| Tuple {
        source_be: a[0],
        destination_be: a[1],
        source_port_be: p[0],
        destination_port_be: p[1],
    })
}

fn ip(protocol: u8, tuple: &Tuple, options: usize, transport: &[u8]) -> Vec<u8> {
    let header = 20 + options * 4;
    let mut b = std::vec![0_u8; header];
    b[0] = 0x40 | (header / 4) as u8;
    b[2..4].copy_from_slice(&((header + transport.len()) as u16).to_be_bytes());
    b[8] = 64;
    b[9] = protocol;
    b[12..16].copy_from_slice(&tuple.source_be.to_ne_bytes());
    b[16..20].copy_from_slice(&tuple.destination_be.to_ne_bytes());
    b[20..].fill(1);
    let checksum = finish(sum(&b, 0));
    b[10..12].copy_from_slice(&checksum.to_be_bytes());
    b.extend_from_slice(transport);
    b
}

fn transport(protocol: u8, tuple: &Tuple, payload: &[u8]) -> Vec<u8> {
    let header = if protocol == TCP { 20 } else { 8 };
    let mut b = std::vec![0_u8; header];
    b[0..2].copy_from_slice(&tuple.source_port_be.to_ne_bytes());
    b[2..4].copy_from_slice(&tuple.destination_port_be.to_ne_bytes());
    if protocol == TCP {
        b[12] = 0x50;
        b[13] = parse::TCP_ACK;
    }
    b.extend_from_slice(payload);
    let total = pseudo(tuple.source_be, tuple.destination_be, protocol, b.len() as u16);
    let field = if protocol == TCP { 16 } else { 6 };
    let checksum = match finish(sum(&b, total)) {
        0 if protocol == UDP => 0xffff,
        other => other,
    };
    b[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    b
}

fn frame(ip: Vec<u8>) -> MemoryPacket {
    let mut b = std::vec![0_u8; 12];
    b.extend_from_slice(&[8, 0]);
    b.extend(ip);
    MemoryPacket(b)
}

fn valid(packet: &MemoryPacket) -> bool {
    let ip = &packet.0[L3..];
    let header = usize::from(ip[0] & 15) * 4;
    let l4 = &ip[header..];
    let source = u32::from_ne_bytes(ip[12..16].try_into().unwrap());
    let destination = u32::from_ne_bytes(ip[16..20].try_into().unwrap());
    let start = if ip[9] == ICMP {
        0
    } else {
        pseudo(source, destination, ip[9], l4.len() as u16)
    };
    fold(sum(&ip[..header], 0)) == 0xffff && fold(sum(l4, start)) == 0xffff
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![Just(TCP), Just(UDP)]
}

proptest! {
    #[test]
    fn there_and_back(proto in protocol(), from in tuple(), to in tuple(), options in 0_usize..4, payload in proptest::collection::vec(any::<u8>(), 0..64)) {
        let original = frame(ip(proto, &from, options, &transport(proto, &from, &payload)));
        let mut packet = original.clone();
        let headers = parse::ipv4(&packet).unwrap();
        prop_assert_eq!(headers.tuple, from);
        translate(&mut packet, &headers, &to).unwrap();
        prop_assert!(valid(&packet));
        let back = parse::ipv4(&packet).unwrap();
        prop_assert_eq!(back.tuple, to);
        translate(&mut packet, &back, &from).unwrap();
        prop_assert!(valid(&packet));
        prop_assert_eq!(packet, original);
    }

    #[test]
    fn errors_there_and_back(proto in protocol(), about in tuple(), to in tuple(), cut in 8_usize..28, router: Option<u32>) {
        let inner = ip(proto, &about, 0, &transport(proto, &about, &[7; 20]));
        let mut icmp = std::vec![3_u8, 3, 0, 0, 0, 0, 0, 0];
        icmp.extend_from_slice(&inner[..20 + cut]);
        let checksum = finish(sum(&icmp, 0));
        icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
        let flow = about.reversed();
        let outer = Tuple { source_be: router.unwrap_or(flow.source_be), ..flow };
        // Translated and not translated senders must be told apart.
        prop_assume!(router.is_none_or(|r| r != flow.source_be && r != to.source_be));
        let original = frame(ip(ICMP, &outer, 0, &icmp));
        let mut packet = original.clone();
        let headers = parse::ipv4(&packet).unwrap();
        prop_assert_eq!(headers.tuple, flow);
        translate(&mut packet, &headers, &to).unwrap();
        prop_assert!(valid(&packet));
        let embedded = &packet.0[L3 + 28..];
        prop_assert_eq!(fold(sum(&embedded[..20], 0)), 0xffff);
        let back = parse::ipv4(&packet).unwrap();
        prop_assert_eq!(back.tuple, to);
        translate(&mut packet, &back, &flow).unwrap();
        prop_assert_eq!(packet, original);
    }

    #[test]
    fn anything_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128), to in tuple()) {
        let mut packet = MemoryPacket(bytes);
        let length = packet.0.len();
        let _arp = parse::arp(&packet);
        let _ethernet = parse::ethernet(&packet);
        if let Some(headers) = parse::ipv4(&packet) {
            let _refused = translate(&mut packet, &headers, &to).is_err();
        }
        prop_assert_eq!(packet.0.len(), length);
    }

    #[test]
    fn a_cut_packet_is_read_without_panic(proto in protocol(), from in tuple(), to in tuple(), at in 0_usize..60) {
        let mut packet = frame(ip(proto, &from, 0, &transport(proto, &from, &[1; 8])));
        packet.0.truncate(at);
        if let Some(headers) = parse::ipv4(&packet) {
            let _refused = translate(&mut packet, &headers, &to).is_err();
        }
        prop_assert!(packet.0.len() <= 60);
    }
}

#[test]
fn a_udp_checksum_of_zero_stays() {
    let from = Tuple {
        source_be: 1,
        destination_be: 2,
        source_port_be: 3,
        destination_port_be: 4,
    };
    let to = Tuple {
        source_be: 9,
        destination_port_be: 77,
        ..from
    };
    let mut packet = frame(ip(UDP, &from, 0, &[0, 3, 0, 4, 0, 8, 0, 0]));
    let headers = parse::ipv4(&packet).unwrap();
    translate(&mut packet, &headers, &to).unwrap();
    assert_eq!(&packet.0[L3 + 26..], &[0, 0]);
}

#[test]
fn a_later_fragment_changes_addresses_only() {
    let from = Tuple {
        source_be: 1,
        destination_be: 2,
        source_port_be: 0,
        destination_port_be: 0,
    };
    let mut bytes = ip(UDP, &from, 0, &[0xaa; 16]);
    bytes[7] = 5;
    let checksum = {
        bytes[10..12].fill(0);
        finish(sum(&bytes[..20], 0))
    };
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = frame(bytes);
    let headers = parse::ipv4(&packet).unwrap();
    assert_eq!(headers.form, FORM_LATER_FRAGMENT);
    translate(
        &mut packet,
        &headers,
        &Tuple {
            source_be: 5,
            source_port_be: 8,
            ..from
        },
    )
    .unwrap();
    assert_eq!(&packet.0[L3 + 20..], &[0xaa; 16]);
    assert_eq!(fold(sum(&packet.0[L3..L3 + 20], 0)), 0xffff);
}
