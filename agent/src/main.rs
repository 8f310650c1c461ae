//! The `skep` command: the node agent and its command line.

use std::process::ExitCode;

use clap::Parser;
use skep_agent::cli::{Cli, Command, NetCommand, ingress, query};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skep: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match command {
        Command::Agent(options) => {
            log_to_stderr();
            // Before anything that could pick another: two providers in one process panic.
            if rustls::crypto::ring::default_provider()
                .install_default()
                .is_err()
            {
                anyhow::bail!("a TLS provider is installed already");
            }
            end_on_panic();
            runtime.block_on(skep_agent::agent::run(options))
        }
        Command::Status(output) => runtime.block_on(query("status", output.output)),
        Command::Net {
            command: NetCommand::Drops(output),
        } => runtime.block_on(query("net/drops", output.output)),
        Command::Net {
            command: NetCommand::Flows(output),
        } => runtime.block_on(query("net/flows", output.output)),
        Command::Ingress { command } => runtime.block_on(ingress::run(command)),
    }
}

/// `SKEP_LOG`, else `RUST_LOG`, else `info`.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("SKEP_LOG")
        .or_else(|_| EnvFilter::try_from_default_env())
        .unwrap_or_else(|_| EnvFilter::new("info,openraft=warn,netlink_proto=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

/// A panic is a bug of ours. The process ends and is started again: the kernel goes on forwarding meanwhile, and a half-dead
/// agent would be worse.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::abort();
    }));
}
