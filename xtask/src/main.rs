//! The only build and test entry point.

mod build_ebpf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Compile the eBPF programs that the loader embeds
    BuildEbpf,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Action::BuildEbpf => build_ebpf::run(),
    }
}
