//! The `skep` binary: node daemon and its command line.
fn main() {}
