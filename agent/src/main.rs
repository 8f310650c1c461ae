//! The `skep` command: the node agent and its command line.

fn main() {}
