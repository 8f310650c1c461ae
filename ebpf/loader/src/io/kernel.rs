//! What the running kernel offers.

/// Checks that this process and kernel can run the data plane.
///
/// # Errors
/// What is missing, in words for the user, one entry per finding.
pub fn check_kernel() -> Result<(), Vec<String>> {
    Ok(())
}
