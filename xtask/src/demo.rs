//! `cargo xtask demo`: three nodes on this machine, driven by the stock docker CLI only; `demo ingress` shows an
//! address that outlives its node, with the `skep` command beside it.

mod ingress;
mod points;
mod stage;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use skep_tests::{Cluster, cluster};

use crate::{build_ebpf, need_root, setup, step, test};
use stage::Stage;

const LABEL: &str = "demo";

/// What is shown instead of the tour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// An address and the connections through it outlive the node that holds it.
    Ingress,
}

/// Shows the points and removes everything; with `keep` leaves a living swarm of three.
pub fn run(what: Option<What>, keep: bool, release: bool) -> Result<()> {
    need_root("the demo")?;
    setup::run(false)?;
    step::timed("build the eBPF programs", build_ebpf::run)?;
    let binary = test::build_agent(release)?;
    let cluster = step::timed("start three nodes", || start(keep, binary.clone()))?;
    let stage = Stage::new(&cluster, binary);
    stage.explain();
    let result = match what {
        None => points::show(&stage, keep),
        Some(What::Ingress) => ingress::show(&stage),
    };
    stage.summary();
    match result {
        Ok(()) if keep => leave_running(cluster),
        Ok(()) => {
            step::timed("remove the nodes", || {
                drop(cluster);
                Ok(())
            })?;
            println!("Everything was as promised, and nothing is left behind.");
            Ok(())
        }
        Err(error) => {
            println!(
                "\nThe logs of dockerd and the agents are in {}.",
                cluster.logs().display()
            );
            Err(error.context("the demo did not go as promised"))
        }
    }
}

fn start(keep: bool, binary: PathBuf) -> Result<Cluster> {
    if cluster::take_down(LABEL)? > 0 {
        println!("    removed an earlier demo");
    }
    let builder = Cluster::builder(LABEL).nodes(3).agent(binary);
    let cluster = if keep { builder.detached() } else { builder }.build()?;
    println!(
        "    each has namespaces, a dockerd and a skep agent of its own; a client is on the same segment"
    );
    Ok(cluster)
}

fn cluster_file() -> PathBuf {
    skep_tests::target_dir().join("demo/cluster.json")
}

fn leave_running(cluster: Cluster) -> Result<()> {
    let description = cluster.describe().context("describe the cluster")?;
    let path = cluster_file();
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&path, serde_json::to_vec_pretty(&description)?)
        .with_context(|| format!("write {}", path.display()))?;
    println!("\nThe cluster runs on. Use it with the machine's own docker CLI:\n");
    for node in &description.nodes {
        println!(
            "    docker -H {} node ls        # {}, {}",
            node.docker_host, node.name, node.address
        );
    }
    println!("\nFrom the outside client, a port that a service publishes on every node:\n");
    println!(
        "    nsenter --net={} busybox wget -qO- http://{}:8080/",
        description.client.netns, description.nodes[0].address
    );
    println!(
        "\nA node dies with its first process, such as: kill -9 {}",
        description.nodes[2].pid
    );
    println!("Machine-readable: {}", path.display());
    println!("Logs: {}", cluster.logs().display());
    println!("To remove it all: cargo xtask demo --down");
    cluster.keep()
}

/// Removes a cluster that `--keep` left.
pub fn down() -> Result<()> {
    need_root("removing the demo")?;
    let count = step::timed("remove the nodes", || cluster::take_down(LABEL))?;
    println!(
        "{}",
        if count == 0 {
            "there was no demo"
        } else {
            "nothing is left"
        }
    );
    let path = cluster_file();
    if path.exists() {
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Long enough for the slowest machine, short enough to end.
const PATIENCE: Duration = Duration::from_secs(60);
