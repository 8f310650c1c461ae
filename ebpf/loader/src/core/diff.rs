//! What to write and what to remove so that a map holds what it should.

use std::collections::BTreeMap;

/// Entries to write (missing or different) and keys to remove.
pub fn diff<K: Ord + Copy, V: PartialEq + Copy>(
    held: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
) -> (Vec<(K, V)>, Vec<K>) {
    let written = wanted
        .iter()
        .filter(|(k, v)| held.get(k) != Some(v))
        .map(|(k, v)| (*k, *v))
        .collect();
    let removed = held.keys().filter(|k| !wanted.contains_key(k)).copied().collect();
    (written, removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn applying_the_difference_gives_what_was_wanted(held: BTreeMap<u8, u8>, wanted: BTreeMap<u8, u8>) {
            let (written, removed) = diff(&held, &wanted);
            let mut result = held.clone();
            result.extend(written);
            for key in removed {
                result.remove(&key);
            }
            prop_assert_eq!(result, wanted);
        }

        #[test]
        fn nothing_differs_from_itself(held: BTreeMap<u8, u8>) {
            let (written, removed) = diff(&held, &held);
            prop_assert!(written.is_empty() && removed.is_empty());
        }
    }
}
