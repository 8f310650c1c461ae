//! Percentiles of measurements, and how long the rest will take. Pure.

use std::time::Duration;

/// What is told of a row of measurements, in their unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub count: usize,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// None of nothing. Nearest rank: every figure is one that was measured, and p99 of fewer than a hundred
/// is the largest.
pub fn summarize(values: &[f64]) -> Option<Summary> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let max = *sorted.last()?;
    Some(Summary {
        count: sorted.len(),
        p50: nearest_rank(&sorted, 50),
        p99: nearest_rank(&sorted, 99),
        max,
    })
}

/// The smallest value that at least `percent` of all do not exceed.
fn nearest_rank(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

/// How long the rest takes if it goes on like this.
pub fn remaining(done: usize, total: usize, elapsed: Duration) -> Option<Duration> {
    let done_parts = u32::try_from(done).ok().filter(|parts| *parts > 0)?;
    let left = u32::try_from(total.saturating_sub(done)).ok()?;
    Some(elapsed / done_parts * left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_no_percentile() {
        assert_eq!(summarize(&[]), None);
    }

    #[test]
    fn one_value_is_all_of_them() {
        let summary = summarize(&[7.5]).unwrap();
        assert_eq!((summary.p50, summary.p99, summary.max), (7.5, 7.5, 7.5));
    }

    #[test]
    fn order_does_not_matter_and_ranks_are_nearest() {
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        values.swap(3, 77);
        let summary = summarize(&values).unwrap();
        assert_eq!(summary.count, 200);
        assert_eq!((summary.p50, summary.p99, summary.max), (100.0, 198.0, 200.0));
    }

    #[test]
    fn one_outlier_of_a_hundred_is_the_maximum_and_not_the_99th() {
        let mut values = vec![1.0; 99];
        values.push(1000.0);
        let summary = summarize(&values).unwrap();
        assert_eq!((summary.p99, summary.max), (1.0, 1000.0));
        values.pop();
        values[0] = 1000.0;
        assert_eq!(summarize(&values).unwrap().p99, 1000.0);
    }

    #[test]
    fn the_rest_takes_as_long_as_what_was_done() {
        let elapsed = Duration::from_secs(30);
        assert_eq!(remaining(0, 10, elapsed), None);
        assert_eq!(remaining(3, 10, elapsed), Some(Duration::from_secs(70)));
        assert_eq!(remaining(10, 10, elapsed), Some(Duration::ZERO));
    }
}
