//! The state of a flow, as bits that each direction sets for itself, and how long it may be idle.

use crate::{FIN, FLOW_ELSEWHERE, FlowValue, RST, SEEN};

pub const TCP: u8 = 6;
pub const TCP_FIN: u8 = 1;
pub const TCP_SYN: u8 = 2;
pub const TCP_RST: u8 = 4;
pub const TCP_ACK: u8 = 16;

/// Bits after one more packet in a direction.
#[inline(always)]
pub const fn advance(bits: u8, protocol: u8, tcp_flags: u8) -> u8 {
    if protocol != TCP {
        return bits | SEEN;
    }
    let mut bits = bits;
    if tcp_flags & (TCP_SYN | TCP_ACK) != TCP_SYN {
        bits |= SEEN;
    }
    if tcp_flags & TCP_FIN != 0 {
        bits |= FIN;
    }
    if tcp_flags & TCP_RST != 0 {
        bits |= RST;
    }
    bits
}

/// Nothing more is to be expected of it; a SYN with the same tuple is a new flow.
#[inline(always)]
pub const fn is_over(value: &FlowValue) -> bool {
    (value.forward & FIN != 0 && value.reverse & FIN != 0) || (value.forward | value.reverse) & RST != 0
}

/// Both sides have spoken, and the client once more: worth a place that nothing can evict it from.
#[inline(always)]
pub const fn is_established(value: &FlowValue) -> bool {
    value.reverse & SEEN != 0 && value.forward & SEEN != 0
}

/// Idle seconds after which a flow is forgotten. UDP as nf_conntrack (30 and 120), TCP longer than any application's
/// patience: IPVS' 900 s break idle database connections.
pub const fn lifetime_s(protocol: u8, value: &FlowValue) -> u32 {
    match protocol {
        TCP if is_over(value) => 10,
        TCP if !is_established(value) => 30,
        TCP => 24 * 3600,
        _ if value.reverse & SEEN != 0 || value.flags & FLOW_ELSEWHERE != 0 => 120,
        _ => 30,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(forward: u8, reverse: u8) -> FlowValue {
        FlowValue {
            forward,
            reverse,
            ..FlowValue::default()
        }
    }

    #[test]
    fn a_handshake_establishes() {
        let mut flow = value(advance(0, TCP, TCP_SYN), 0);
        assert!(!is_established(&flow));
        flow.reverse = advance(flow.reverse, TCP, TCP_SYN | TCP_ACK);
        assert!(
            !is_established(&flow),
            "the client has not shown that it is there"
        );
        flow.forward = advance(flow.forward, TCP, TCP_ACK);
        assert!(is_established(&flow));
        assert_eq!(lifetime_s(TCP, &flow), 86_400);
    }

    #[test]
    fn closing_needs_both_sides_or_a_reset() {
        let mut flow = value(SEEN, SEEN);
        flow.forward = advance(flow.forward, TCP, TCP_FIN | TCP_ACK);
        assert!(!is_over(&flow));
        flow.reverse = advance(flow.reverse, TCP, TCP_FIN | TCP_ACK);
        assert!(is_over(&flow));
        assert!(is_over(&value(SEEN, advance(SEEN, TCP, TCP_RST))));
        assert_eq!(lifetime_s(TCP, &flow), 10);
    }

    #[test]
    fn udp_lives_longer_once_answered() {
        assert_eq!(lifetime_s(17, &value(SEEN, 0)), 30);
        assert_eq!(lifetime_s(17, &value(SEEN, SEEN)), 120);
    }
}
