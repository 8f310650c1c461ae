//! How long to wait before the next try: exponential with jitter and a cap, for ever.

use std::time::Duration;

/// Delays of one object that fails again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    pub const fn new(base: Duration, cap: Duration) -> Backoff {
        Backoff {
            base,
            cap,
            failures: 0,
        }
    }

    /// The next delay. `chance` is a fresh random number: half of the delay is fixed, half is spread.
    pub fn next(&mut self, chance: u32) -> Duration {
        let full = self.base.saturating_mul(1 << self.failures.min(16)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        let spread = f64::from(chance) / f64::from(u32::MAX);
        full.mul_f64(0.5 + 0.5 * spread)
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn delays_stay_between_half_the_base_and_the_cap(chances in prop::collection::vec(any::<u32>(), 1..40)) {
            let (base, cap) = (Duration::from_millis(100), Duration::from_secs(10));
            let mut backoff = Backoff::new(base, cap);
            for chance in chances {
                let delay = backoff.next(chance);
                prop_assert!(delay >= base / 2 && delay <= cap);
            }
        }
    }

    #[test]
    fn delays_grow_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let first = backoff.next(u32::MAX);
        assert_eq!(backoff.next(u32::MAX), first * 2);
        backoff.reset();
        assert_eq!(backoff.next(u32::MAX), first);
    }
}
