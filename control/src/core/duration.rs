//! Durations as users write them: Go's, such as `1m30s`, `250ms` or `0`.

use crate::model::Nanos;

/// Units of Go's `time.ParseDuration`, longer names first.
const UNITS: [(&str, f64); 6] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// `None` if the text is no duration, or a negative one.
pub fn parse(text: &str) -> Option<Nanos> {
    if text == "0" {
        return Some(0);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let word = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(word);
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total += number.parse::<f64>().ok()? * nanos;
        rest = tail;
    }
    let fits = !text.is_empty() && total < Nanos::MAX as f64;
    fits.then_some(total as Nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go() {
        let good = [
            ("0", 0),
            ("30s", 30_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("250ms", 250_000_000),
            ("10us", 10_000),
            ("7ns", 7),
        ];
        for (text, nanos) in good {
            assert_eq!(parse(text), Some(nanos), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1d", "1m 2s", "1..5s", "999999999h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
