//! How long to wait for a peer, by how regularly it was heard lately.

use std::time::Duration;

/// Four probes lost in a row, and a stop of 300 ms.
pub const SHORTEST: Duration = Duration::from_millis(450);
/// Still well within a second with the others' reports.
pub const LONGEST: Duration = Duration::from_millis(750);

/// Mean and deviation of the times between two signs of life, smoothed as TCP does its round-trip times (RFC 6298).
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    mean: Duration,
    deviation: Duration,
}

impl Patience {
    /// Expects a sign of life at this interval.
    pub fn new(interval: Duration) -> Self {
        Self {
            mean: interval,
            deviation: Duration::ZERO,
        }
    }

    /// Takes in one more time between two signs of life.
    pub fn learn(&mut self, gap: Duration) {
        self.deviation = (3 * self.deviation + gap.abs_diff(self.mean)) / 4;
        self.mean = (7 * self.mean + gap) / 8;
    }

    /// The silence after which the peer is missed.
    pub fn limit(&self) -> Duration {
        (4 * (self.mean + self.deviation)).clamp(SHORTEST, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(gaps: impl IntoIterator<Item = u64>) -> Duration {
        let mut patience = Patience::new(Duration::from_millis(100));
        for gap in gaps {
            patience.learn(Duration::from_millis(gap));
        }
        patience.limit()
    }

    #[test]
    fn a_regular_peer_is_missed_soon() {
        assert_eq!(learned([100; 50]), SHORTEST);
        assert_eq!(learned((0..50).map(|n| 98 + n % 5)), SHORTEST);
    }

    #[test]
    fn an_irregular_one_is_given_time_and_calms_down_again() {
        let uneven = || (0..50).map(|n| if n % 2 == 0 { 20 } else { 180 });
        assert!(learned(uneven()) > Duration::from_millis(650));
        assert_eq!(learned([300, 20, 500, 10, 400, 30]), LONGEST);
        assert_eq!(learned(uneven().chain([100; 30])), SHORTEST);
    }
}
