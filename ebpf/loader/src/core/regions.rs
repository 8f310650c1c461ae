//! Places for tables inside a large array.

/// Finds room for `length` slots in `0..size` beside the regions in use, starting the search at `from` and going round
/// once: a region just given up is not used again at once, because a packet in flight may still read it.
pub fn find(in_use: &[(u32, u32)], size: u32, length: u32, from: u32) -> Option<u32> {
    let mut regions: Vec<(u32, u32)> = in_use.iter().copied().filter(|(_, length)| *length > 0).collect();
    regions.sort_unstable();
    let search = |start: u32, end: u32| {
        let mut at = start;
        for (base, used) in &regions {
            if *base >= at.saturating_add(length) {
                break;
            }
            if base + used > at {
                at = base + used;
            }
        }
        (at.checked_add(length)? <= end).then_some(at)
    };
    search(from, size).or_else(|| search(0, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn regions_never_overlap(lengths in proptest::collection::vec(1_u32..20, 1..20), size in 20_u32..200) {
            let mut used: Vec<(u32, u32)> = Vec::new();
            let mut from = 0;
            for length in lengths {
                match find(&used, size, length, from) {
                    Some(base) => {
                        prop_assert!(base + length <= size);
                        prop_assert!(used.iter().all(|(b, l)| base + length <= *b || b + l <= base));
                        used.push((base, length));
                        from = base + length;
                    }
                    None => {
                        used.sort_unstable();
                        let mut at = 0;
                        for (b, l) in &used {
                            prop_assert!(b - at < length);
                            at = b + l;
                        }
                        prop_assert!(size - at < length);
                        used.remove(0);
                    }
                }
            }
        }
    }

    #[test]
    fn goes_round() {
        assert_eq!(find(&[(4, 4)], 10, 3, 8), Some(0));
        assert_eq!(find(&[(4, 4)], 10, 2, 8), Some(8));
        assert_eq!(find(&[(0, 10)], 10, 1, 0), None);
    }
}
