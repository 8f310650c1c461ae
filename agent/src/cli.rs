//! The command line: `skep agent`, and commands that ask the agent as the docker CLI does.

use clap::{Parser, Subcommand, ValueEnum};

use crate::agent;

mod ask;
pub mod ingress;
mod show;

/// Docker Swarm mode on an eBPF data plane.
#[derive(Debug, Parser)]
#[command(name = "skep", version, about)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node agent (as root, usually by systemd)
    Agent(agent::Options),
    /// Show this node: its swarm, session, network and tasks
    Status(Output),
    /// Look into this node's data plane
    Net {
        #[command(subcommand)]
        command: NetCommand,
    },
    /// Addresses of the swarm that outlive the node that holds them
    Ingress {
        #[command(subcommand)]
        command: ingress::IngressCommand,
    },
}

#[derive(Debug, Subcommand)]
pub enum NetCommand {
    /// Packets dropped so far, by reason
    Drops(Output),
    /// How full the flow tables are
    Flows(Output),
}

#[derive(Debug, clap::Args)]
pub struct Output {
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// Runs a command that asks the agent.
///
/// # Errors
/// When the agent cannot be reached or does not know the page.
pub async fn query(page: &str, format: Format) -> anyhow::Result<()> {
    let answer = ask::ask(page).await?;
    let text = match format {
        Format::Json => serde_json::to_string_pretty(&answer)?,
        Format::Table => match page {
            "net/drops" => show::drops(&answer),
            "net/flows" => show::flows(&answer),
            _ => show::status(&answer),
        },
    };
    println!("{text}");
    Ok(())
}
