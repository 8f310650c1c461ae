//! Replies made here: ARP, TCP RST (RFC 9293, 3.10.7.1), ICMP errors (RFC 792, RFC 1122 3.2.2).

use crate::checksum::{finish, pseudo, sum};
use crate::parse::{Arp, TCP, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, Tuple};

/// ICMP code: the network behind a VIP or port refuses.
pub const CODE_PORT: u8 = 3;
/// ICMP code: too big and not to be fragmented; the rest of the header holds the MTU (RFC 1191).
pub const CODE_TOO_BIG: u8 = 4;

/// The frame that answers an ARP request with `mac`.
#[inline(always)]
pub fn arp_reply(request: &Arp, mac: [u8; 6]) -> [u8; 42] {
    let mut f = [0_u8; 42];
    f[0..6].copy_from_slice(&request.sender_mac);
    f[6..12].copy_from_slice(&mac);
    f[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2]);
    f[22..28].copy_from_slice(&mac);
    f[28..32].copy_from_slice(&request.target_be.to_ne_bytes());
    f[32..38].copy_from_slice(&request.sender_mac);
    f[38..42].copy_from_slice(&request.sender_be.to_ne_bytes());
    f
}

/// An IPv4 header without options, checksum included.
#[inline(always)]
fn ip_header(protocol: u8, length: u16, source_be: u32, destination_be: u32) -> [u8; 20] {
    let mut h = [0_u8; 20];
    let source = source_be.to_ne_bytes();
    let destination = destination_be.to_ne_bytes();
    h[0] = 0x45;
    [h[2], h[3]] = length.to_be_bytes();
    h[6] = 0x40;
    h[8] = 64;
    h[9] = protocol;
    [h[12], h[13], h[14], h[15]] = source;
    [h[16], h[17], h[18], h[19]] = destination;
    [h[10], h[11]] = finish(sum(&h, 0)).to_be_bytes();
    h
}

/// A TCP segment without data that refuses another.
#[derive(Debug, Clone, Copy)]
pub struct Reset {
    pub ip: [u8; 20],
    /// Checksum field: the pseudo header's sum, as for a checksum that hardware completes.
    pub tcp: [u8; 20],
    /// What has to be added to the complement of that field where nobody completes it.
    pub remainder: u32,
}

/// Bytes 4 to 16 of the refused TCP header: sequence, acknowledgement, offset, flags, window.
#[inline(always)]
pub fn reset(refused: &Tuple, middle: &[u8; 12], payload: u16) -> Reset {
    let flags = middle[9];
    let mut tcp = [0_u8; 20];
    [tcp[0], tcp[1]] = refused.destination_port_be.to_ne_bytes();
    [tcp[2], tcp[3]] = refused.source_port_be.to_ne_bytes();
    tcp[12] = 0x50;
    if flags & TCP_ACK != 0 {
        [tcp[4], tcp[5], tcp[6], tcp[7]] = [middle[4], middle[5], middle[6], middle[7]];
        tcp[13] = TCP_RST;
    } else {
        let sequence = u32::from_be_bytes([middle[0], middle[1], middle[2], middle[3]]);
        let length = u32::from(payload) + (flags & TCP_SYN != 0) as u32 + (flags & TCP_FIN != 0) as u32;
        [tcp[8], tcp[9], tcp[10], tcp[11]] = sequence.wrapping_add(length).to_be_bytes();
        tcp[13] = TCP_RST | TCP_ACK;
    }
    let header = u32::from(!finish(sum(&tcp, 0)));
    let half = u32::from(!finish(pseudo(
        refused.destination_be,
        refused.source_be,
        TCP,
        20,
    )));
    [tcp[16], tcp[17]] = (half as u16).to_be_bytes();
    // The kernel makes the field !(!field + remainder), and that shall be !(half + header). In ones' complement !x is -x.
    Reset {
        ip: ip_header(TCP, 40, refused.destination_be, refused.source_be),
        tcp,
        remainder: half + half + header,
    }
}

/// IP and ICMP header of an error about `embedded`, the beginning of the refused IP packet.
#[inline(always)]
pub fn icmp_error(
    code: u8,
    mtu: u16,
    source_be: u32,
    destination_be: u32,
    embedded_sum: u32,
    embedded_length: u16,
) -> ([u8; 20], [u8; 8]) {
    let mut icmp = [3, code, 0, 0, 0, 0, 0, 0];
    [icmp[6], icmp[7]] = mtu.to_be_bytes();
    [icmp[2], icmp[3]] = finish(sum(&icmp, embedded_sum)).to_be_bytes();
    (
        ip_header(1, 28 + embedded_length, source_be, destination_be),
        icmp,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::fold;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_reset_is_valid_with_and_without_offload(source: u32, destination: u32, ports: (u16, u16), mut middle: [u8; 12], payload in 0_u16..1400) {
            middle[9] &= !TCP_RST;
            let refused = Tuple { source_be: source, destination_be: destination, source_port_be: ports.0, destination_port_be: ports.1 };
            let reset = reset(&refused, &middle, payload);
            prop_assert_eq!(fold(sum(&reset.ip, 0)), 0xffff);
            let pseudo = pseudo(destination, source, TCP, 20);
            // Offloaded: the device stores the complement of the sum from the TCP header on, field included.
            let mut offloaded = reset.tcp;
            let completed = finish(sum(&offloaded, 0));
            [offloaded[16], offloaded[17]] = completed.to_be_bytes();
            prop_assert_eq!(fold(sum(&offloaded, pseudo)), 0xffff);
            // Not offloaded: bpf_l4_csum_replace(field, 0, remainder, 0).
            let mut plain = reset.tcp;
            let field = u16::from_be_bytes([plain[16], plain[17]]);
            let replaced = finish(reset.remainder + u32::from(!field));
            [plain[16], plain[17]] = replaced.to_be_bytes();
            prop_assert_eq!(fold(sum(&plain, pseudo)), 0xffff);
        }

        #[test]
        fn an_icmp_error_is_valid(source: u32, destination: u32, mtu: u16, embedded: [u8; 28]) {
            let (ip, icmp) = icmp_error(CODE_TOO_BIG, mtu, source, destination, sum(&embedded, 0), 28);
            prop_assert_eq!(fold(sum(&ip, 0)), 0xffff);
            prop_assert_eq!(fold(sum(&icmp, sum(&embedded, 0))), 0xffff);
            prop_assert_eq!(u16::from_be_bytes([ip[2], ip[3]]), 56);
        }
    }

    #[test]
    fn a_syn_is_acknowledged_and_an_ack_is_echoed() {
        let refused = Tuple {
            source_be: 1,
            destination_be: 2,
            source_port_be: 3,
            destination_port_be: 4,
        };
        let syn = [0, 0, 0, 9, 0, 0, 0, 0, 0x50, TCP_SYN, 0, 0];
        let answer = reset(&refused, &syn, 0).tcp;
        assert_eq!(
            (&answer[8..12], answer[13]),
            (&[0, 0, 0, 10][..], TCP_RST | TCP_ACK)
        );
        let ack = [0, 0, 0, 9, 0, 0, 0, 77, 0x50, TCP_ACK, 0, 0];
        let answer = reset(&refused, &ack, 100).tcp;
        assert_eq!((&answer[4..8], answer[13]), (&[0, 0, 0, 77][..], TCP_RST));
    }

    #[test]
    fn arp_is_answered_to_the_asker() {
        let request = Arp {
            request: true,
            sender_mac: [2; 6],
            sender_be: 7,
            target_be: 9,
        };
        let frame = arp_reply(&request, [4; 6]);
        assert_eq!(&frame[0..6], &[2; 6]);
        assert_eq!(&frame[20..28], &[0, 2, 4, 4, 4, 4, 4, 4]);
        assert_eq!(frame[28..32], 9_u32.to_ne_bytes());
        assert_eq!(frame[38..42], 7_u32.to_ne_bytes());
    }
}
