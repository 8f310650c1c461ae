//! `skep ingress`: addresses of the swarm, and who holds them.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

use super::ask::{ask, escape, tell};
use super::{Format, Output, show};

/// How long a move may take until the node holds the address: it must have been seen to answer for some seconds.
const MOVE_DEADLINE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub enum IngressCommand {
    /// Show who holds each address, since when and why
    Ls(Output),
    /// Move an address to another node and wait until that node holds it
    Move {
        address: String,
        /// Id or name of the node
        node: String,
        /// Do not wait
        #[arg(short, long)]
        detach: bool,
    },
    /// Add, list and remove addresses
    Address {
        #[command(subcommand)]
        command: AddressCommand,
    },
}

#[derive(Debug, Subcommand)]
pub enum AddressCommand {
    /// Add an address to the swarm: one node holds it, another one when that node dies
    Add {
        /// With prefix length, e.g. 192.168.50.100/24
        #[arg(value_name = "ADDRESS/PREFIX")]
        address: String,
        /// Interface that carries it on every node; by default the one with an address of the same network
        #[arg(long)]
        interface: Option<String>,
        /// Placement constraint that a node must meet to hold it, e.g. node.labels.edge==true; may be repeated
        #[arg(long, value_name = "CONSTRAINT")]
        nodes: Vec<String>,
    },
    /// List the addresses, with who may hold them and which services ask for them
    Ls(Output),
    /// Remove addresses from the swarm
    Rm {
        #[arg(required = true)]
        addresses: Vec<String>,
    },
}

/// # Errors
/// When the agent cannot be reached, or refuses.
pub async fn run(command: IngressCommand) -> anyhow::Result<()> {
    match command {
        IngressCommand::Ls(output) => {
            let addresses = held().await?;
            print(&addresses, output.output, show::ingress)
        }
        IngressCommand::Move {
            address,
            node,
            detach,
        } => move_to(&address, &node, detach).await,
        IngressCommand::Address { command } => match command {
            AddressCommand::Add {
                address,
                interface,
                nodes,
            } => add(&address, interface.as_deref(), &nodes).await,
            AddressCommand::Ls(output) => {
                let addresses = ask("ingress/addresses").await?;
                print(&addresses, output.output, show::ingress_addresses)
            }
            AddressCommand::Rm { addresses } => remove(&addresses).await,
        },
    }
}

fn print(answer: &Value, format: Format, table: fn(&Value) -> String) -> anyhow::Result<()> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(answer)?,
        Format::Table => table(answer),
    };
    println!("{text}");
    Ok(())
}

/// The addresses as this node sees them held, written as clients write them: without prefix length.
async fn held() -> anyhow::Result<Value> {
    let mut page = ask("ingress").await?;
    if let Some(error) = page["error"].as_str() {
        bail!("{error}");
    }
    let mut addresses = page["addresses"].take();
    for row in addresses.as_array_mut().into_iter().flatten() {
        if let Some(address) = row["address"].as_str().and_then(|text| text.split('/').next()) {
            row["address"] = json!(address);
        }
    }
    Ok(addresses)
}

async fn add(address: &str, interface: Option<&str>, nodes: &[String]) -> anyhow::Result<()> {
    let body = json!({"address": address, "interface": interface.unwrap_or(""), "constraints": nodes});
    let made = tell(Method::POST, "ingress/addresses", Some(&body)).await?;
    println!("{}", made["address"].as_str().unwrap_or(address));
    Ok(())
}

/// Tries all of them, and fails if one could not be removed.
async fn remove(addresses: &[String]) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for address in addresses {
        let path = format!("ingress/addresses/{}", escape(address));
        match tell(Method::DELETE, &path, None).await {
            Ok(_) => println!("{address}"),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\nskep: "));
    }
    Ok(())
}

async fn move_to(address: &str, node: &str, detach: bool) -> anyhow::Result<()> {
    let path = format!("ingress/addresses/{}/move", escape(address));
    let moved = tell(Method::POST, &path, Some(&json!({"node": node}))).await?;
    let (address, node) = (text(&moved, "address")?, text(&moved, "node")?);
    if detach {
        println!("{address} is to be held by {node}");
        return Ok(());
    }
    let mut holder = None;
    let arrived = async {
        loop {
            let addresses = held().await?;
            holder = holder_of(&addresses, address).map(str::to_string);
            if holder.as_deref() == Some(node) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(MOVE_DEADLINE, arrived).await {
        Ok(arrived) => arrived?,
        Err(_) => bail!(
            "{address} is to be held by {node}, but after {} s {} (skep ingress ls shows why)",
            MOVE_DEADLINE.as_secs(),
            match holder {
                Some(other) => format!("{other} still holds it"),
                None => "nobody holds it".to_string(),
            }
        ),
    }
    println!("{address} is held by {node}");
    Ok(())
}

fn text<'a>(answer: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    let text = answer[key].as_str();
    text.with_context(|| format!("the agent's answer has no {key}: is it of another version?"))
}

fn holder_of<'a>(addresses: &'a Value, address: &str) -> Option<&'a str> {
    let mut rows = addresses.as_array()?.iter();
    rows.find(|row| row["address"] == address)?["holder"].as_str()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(line: &str) -> Result<IngressCommand, String> {
        let words = ["skep", "ingress"].into_iter().chain(line.split(' '));
        match Cli::try_parse_from(words)
            .map_err(|error| error.to_string())?
            .command
        {
            Command::Ingress { command } => Ok(command),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words() {
        let add =
            "address add 192.0.2.9/24 --interface eth1 --nodes node.role==worker --nodes node.labels.a!=b";
        let IngressCommand::Address {
            command:
                AddressCommand::Add {
                    address,
                    interface,
                    nodes,
                },
        } = parse(add).unwrap()
        else {
            panic!("not an add");
        };
        assert_eq!(
            (address.as_str(), interface.as_deref()),
            ("192.0.2.9/24", Some("eth1"))
        );
        assert_eq!(nodes, ["node.role==worker", "node.labels.a!=b"]);
        assert!(
            matches!(parse("ls -o json"), Ok(IngressCommand::Ls(output)) if output.output == Format::Json)
        );
        assert!(matches!(
            parse("move 192.0.2.9 n1"),
            Ok(IngressCommand::Move { detach: false, .. })
        ));
        assert!(parse("address rm").unwrap_err().contains("<ADDRESSES>..."));
        assert!(parse("move 192.0.2.9").unwrap_err().contains("<NODE>"));
    }

    #[test]
    fn the_holder_is_found_by_address() {
        let page =
            json!([{"address": "192.0.2.8", "holder": null}, {"address": "192.0.2.9", "holder": "n1"}]);
        assert_eq!(holder_of(&page, "192.0.2.9"), Some("n1"));
        assert_eq!(holder_of(&page, "192.0.2.8"), None);
        assert_eq!(holder_of(&page, "192.0.2.7"), None);
    }
}
