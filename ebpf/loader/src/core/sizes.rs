//! How large the flow tables are.

/// Kernel memory per established flow that fits, its share of the half-open ones included. The kernel's own account
/// (`memlock` of both maps) for 131,072 flows on Linux 6.18 is 24.8 MB; the test
/// `a_flow_costs_as_many_bytes_as_the_sizes_say` measures it on whatever kernel it runs.
pub const BYTES_PER_FLOW: u64 = 192;
/// What a node of any size has room for.
pub const LEAST_FLOWS: u32 = 131_072;
const MOST_FLOWS: u32 = 1 << 23;
/// The flow tables may have this part of a node's memory: 0.25 %.
const SHARE: u64 = 400;

/// Size of the table of established flows on a node with this many bytes of memory.
pub fn max_flows(memory: u64) -> u32 {
    let fitting = u32::try_from(memory / SHARE / BYTES_PER_FLOW).unwrap_or(u32::MAX);
    fitting.clamp(LEAST_FLOWS, MOST_FLOWS)
}

/// Size of the table of half-open flows beside it.
pub fn half_open_flows(max_flows: u32) -> u32 {
    (max_flows / 8).max(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_memory() {
        assert_eq!(max_flows(0), LEAST_FLOWS);
        assert_eq!(max_flows(8 << 30), LEAST_FLOWS);
        let large = max_flows(64 << 30);
        assert!(large > 3 * LEAST_FLOWS, "{large}");
        assert!(u64::from(large) * BYTES_PER_FLOW <= (64 << 30) / 400);
        assert_eq!(max_flows(u64::MAX), MOST_FLOWS);
    }
}
