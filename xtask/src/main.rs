//! The only build and test entry point: `cargo xtask <command>`.

mod bench;
mod build_ebpf;
mod demo;
mod lint;
mod setup;
mod step;
mod test;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

/// Builds, checks, tests and shows Skep.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what building and testing need and what is missing.
    Setup {
        /// Only says what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Compiles the eBPF programs that the agent embeds.
    BuildEbpf,
    /// Format, clippy, the house's own rules, and what dependencies may be.
    Lint,
    /// Runs the tests, all layers unless some are named.
    Test {
        #[arg(value_enum)]
        layers: Vec<test::Layer>,
        /// Tests a release build of the agent.
        #[arg(long)]
        release: bool,
    },
    /// Figures of a release build on this machine.
    Bench {
        #[command(subcommand)]
        what: Option<BenchOf>,
    },
    /// Three nodes on this machine, driven by the stock docker CLI.
    Demo {
        /// What to show instead of the tour.
        #[arg(value_enum)]
        what: Option<demo::What>,
        /// Leaves the cluster running.
        #[arg(long, conflicts_with = "down")]
        keep: bool,
        /// Removes a cluster that was left running.
        #[arg(long)]
        down: bool,
        /// Shows a release build of the agent.
        #[arg(long)]
        release: bool,
    },
}

#[derive(Subcommand)]
enum BenchOf {
    /// Kills holders of an ingress address, beside keepalived.
    Ingress(bench::ingress::Options),
    /// What the control plane takes for what users do, beside Docker's own Swarm mode.
    Control(bench::control::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup { dry_run } => setup::run(dry_run),
        Command::BuildEbpf => build_ebpf::run(),
        Command::Lint => lint::run(),
        Command::Test { layers, release } => test::run(&layers, release),
        Command::Bench { what: None } => bench::run(),
        Command::Bench {
            what: Some(BenchOf::Ingress(options)),
        } => bench::ingress::run(&options),
        Command::Bench {
            what: Some(BenchOf::Control(options)),
        } => bench::control::run(&options),
        Command::Demo { down: true, .. } => demo::down(),
        Command::Demo {
            what, keep, release, ..
        } => demo::run(what, keep, release),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Namespaces, mounts and packages are root's to make.
fn need_root(what: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "{what} needs root: it makes namespaces and starts dockerd in them. Run it with sudo or as root."
        );
    }
    Ok(())
}
