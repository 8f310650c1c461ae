//! Whole nodes in a simulated network: leases under faults, and marks.

mod chaos;
mod leases;
mod marks;
mod sim;

/// How many seeds a test runs: more by hand, with SKEP_SEEDS; from one on, with SKEP_SEED.
fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first: Option<u64> = number("SKEP_SEED");
    let count = number("SKEP_SEEDS").unwrap_or(if first.is_some() { 1 } else { count });
    let first = first.unwrap_or(1);
    first..first + count
}
