//! The only build and test entry point.
fn main() {}
