//! Hashes that all nodes must agree on. Row algorithm 1.

use crate::Address;

/// Finalizer of splitmix64 (Steele et al., 2014): every input bit reaches every output bit.
#[inline(always)]
pub const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hash of a flow to a port. The dialed address is left out: every node of the swarm, and whoever sees only an ICMP
/// error, finds the same task.
#[inline(always)]
pub fn flow_hash(seed: u64, client: &Address, client_port_be: u16, port_be: u16, protocol: u8) -> u64 {
    let w = &client.words_be;
    let high = ((u32::from_be(w[0]) as u64) << 32) | u32::from_be(w[1]) as u64;
    let low = ((u32::from_be(w[2]) as u64) << 32) | u32::from_be(w[3]) as u64;
    let ports = ((u16::from_be(client_port_be) as u64) << 32)
        | ((u16::from_be(port_be) as u64) << 16)
        | protocol as u64;
    mix(mix(mix(seed ^ high) ^ low) ^ ports)
}

/// Weight of a task in a row; the highest wins (rendezvous hashing, Thaler and Ravishankar 1998).
#[inline(always)]
pub const fn weight(seed: u64, row: u32, task_hash: u64) -> u64 {
    mix(task_hash ^ mix(seed.wrapping_add(row as u64)))
}

/// Maps a hash onto 0..count without a division. `count` 0 gives 0.
#[inline(always)]
pub const fn scale(hash: u64, count: u32) -> u32 {
    (((hash >> 32) * count as u64) >> 32) as u32
}

/// Eight bits by which one packet tells nodes apart, never 0. Two nodes that one flow confuses another flow does not.
#[inline(always)]
pub const fn fingerprint(node: u32, flow: u32) -> u8 {
    let mixed = (node ^ flow).wrapping_mul(0x9e37_79b1) >> 16;
    1 + ((mixed * 255) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_never_change() {
        assert_eq!(mix(1), 0x5692_161d_100b_05e5);
        let client = Address::v4(u32::from_ne_bytes([192, 0, 2, 7]));
        let hash = flow_hash(42, &client, 50_000_u16.to_be(), 8080_u16.to_be(), 6);
        assert_eq!(
            hash,
            flow_hash(42, &client, 50_000_u16.to_be(), 8080_u16.to_be(), 6)
        );
        assert_eq!(hash, GOLDEN_FLOW);
        assert_eq!(weight(42, 17, 0x0123_4567_89ab_cdef), GOLDEN_WEIGHT);
    }

    const GOLDEN_FLOW: u64 = 0xcdb6_1ad5_e3d3_79b9;
    const GOLDEN_WEIGHT: u64 = 0x250a_4a6c_e158_d587;

    #[test]
    fn fingerprints_are_never_nothing_and_seldom_the_same() {
        let same = (0..10_000_u32).filter(|flow| {
            let (a, b) = (
                fingerprint(1, mix(u64::from(*flow)) as u32),
                fingerprint(2, mix(u64::from(*flow)) as u32),
            );
            assert!(a != 0 && b != 0);
            a == b
        });
        assert!(same.count() < 100);
    }

    #[test]
    fn scale_stays_inside() {
        for hash in [0, 1, u64::MAX, u64::MAX / 2] {
            assert!(scale(hash, 7) < 7);
        }
        assert_eq!(scale(u64::MAX, 0), 0);
    }
}
