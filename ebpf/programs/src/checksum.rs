//! The Internet checksum (RFC 1071) and its incremental form (RFC 1624).

/// Ones' complement sum of big-endian 16-bit words, not folded; an odd last byte counts as if a zero followed.
#[inline(always)]
pub fn sum(bytes: &[u8], start: u32) -> u32 {
    let mut total = start;
    let mut index = 0;
    while index + 1 < bytes.len() {
        total += u32::from(u16::from_be_bytes([bytes[index], bytes[index + 1]]));
        index += 2;
    }
    if index < bytes.len() {
        total += u32::from(bytes[index]) << 8;
    }
    total
}

/// Folds a sum into 16 bits, carries added back. Good for sums of up to 64 kB.
#[inline(always)]
pub const fn fold(mut total: u32) -> u16 {
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    total as u16
}

/// The checksum field that makes data with this sum valid.
#[inline(always)]
pub const fn finish(total: u32) -> u16 {
    !fold(total)
}

/// RFC 1624, equation 3: the field after a 16-bit word of the data changed from `from` to `to`.
#[inline(always)]
pub const fn replace16(field: u16, from: u16, to: u16) -> u16 {
    !fold((!field) as u32 + (!from) as u32 + to as u32)
}

/// [`replace16`] for a 32-bit word.
#[inline(always)]
pub const fn replace32(field: u16, from: u32, to: u32) -> u16 {
    let half = replace16(field, (from >> 16) as u16, (to >> 16) as u16);
    replace16(half, from as u16, to as u16)
}

/// Sum of the IPv4 pseudo header (RFC 9293, 3.1). Addresses in network order.
#[inline(always)]
pub const fn pseudo(source_be: u32, destination_be: u32, protocol: u8, length: u16) -> u32 {
    let source = u32::from_be(source_be);
    let destination = u32::from_be(destination_be);
    (source >> 16)
        + (source & 0xffff)
        + (destination >> 16)
        + (destination & 0xffff)
        + protocol as u32
        + length as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn incremental_equals_full(mut data in proptest::collection::vec(any::<u8>(), 8..200), at in any::<usize>(), word: u32) {
            let at = (at % (data.len() - 3)) & !1;
            let before = finish(sum(&data, 0));
            let old = u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
            data[at..at + 4].copy_from_slice(&word.to_be_bytes());
            let after = finish(sum(&data, 0));
            let incremental = replace32(before, old, word);
            // 0 and 0xffff are the same number in ones' complement; all-zero data has only the one form.
            prop_assert!(incremental == after || (incremental ^ after) == 0xffff);
        }

        #[test]
        fn data_with_its_checksum_sums_to_all_ones(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let field = finish(sum(&data, 0));
            prop_assert_eq!(fold(sum(&data, 0) + u32::from(field)), 0xffff);
        }
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(
            fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0)),
            0xddf2
        );
    }
}
