//! Times as clients send them.

use crate::model::Timestamp;

/// Unix seconds with an optional fraction, which is what clients send whatever their users typed.
pub fn seconds(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        let nanoseconds = time
            .as_nanosecond()
            .clamp(Timestamp::MIN.into(), Timestamp::MAX.into());
        return Timestamp::try_from(nanoseconds).ok();
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    // What is farther than a timestamp reaches is as far as it reaches.
    Some(whole.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_clients() {
        assert_eq!(seconds("1700000000"), Some(1_700_000_000_000_000_000));
        assert_eq!(seconds("1700000000.000000012"), Some(1_700_000_000_000_000_012));
        assert_eq!(seconds("2023-11-14T22:13:20Z"), Some(1_700_000_000_000_000_000));
        assert_eq!(seconds("32472144000.000000000"), Some(Timestamp::MAX));
        assert_eq!(seconds("2999-01-01T00:00:00Z"), Some(Timestamp::MAX));
        assert_eq!(seconds("yesterday"), None);
    }
}
