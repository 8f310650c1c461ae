//! Runs the tests, layer by layer, from what needs nothing to what needs a cluster.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{build_ebpf, need_root, setup, step};

/// What a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layer {
    /// Nothing.
    Unit,
    /// CAP_BPF: the programs through BPF_PROG_TEST_RUN.
    Ebpf,
    /// Network namespaces: the agent's netlink, nftables and Docker parts.
    Node,
    /// Three nodes with dockerd, driven by the docker CLI.
    Cluster,
    /// Three such nodes: everything that Swarm mode does.
    Swarm,
    /// A node with dockerd's own Swarm mode and one with Skep: the same scripts on both.
    Oracle,
    /// Five such nodes and two, with ingress addresses; nodes are killed.
    Ingress,
}

/// Without the oracle, as long as its list of what is not built changes with every feature.
const ALL: [Layer; 6] = [
    Layer::Unit,
    Layer::Ebpf,
    Layer::Node,
    Layer::Cluster,
    Layer::Swarm,
    Layer::Ingress,
];

/// Runs `layers`, or all of them; prints what each took and fails if one did.
pub fn run(layers: &[Layer], release: bool) -> Result<()> {
    let layers = if layers.is_empty() { &ALL } else { layers };
    if layers.iter().any(|layer| *layer != Layer::Unit) {
        need_root("testing")?;
    }
    setup::run(false)?;
    build_ebpf::run()?;
    let mut results = Vec::new();
    for layer in layers {
        let begin = Instant::now();
        let result = step::timed(&format!("test {layer:?}").to_lowercase(), || {
            test(*layer, release)
        });
        results.push((layer, begin.elapsed(), result));
    }
    summary(&results)
}

fn summary(results: &[(&Layer, Duration, Result<()>)]) -> Result<()> {
    println!("\nlayer     result   time");
    for (layer, took, result) in results {
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!(
            "{:<9} {word:<8} {:.1} s",
            format!("{layer:?}").to_lowercase(),
            took.as_secs_f64()
        );
    }
    let errors: Vec<String> = results
        .iter()
        .filter_map(|(_, _, result)| result.as_ref().err().map(|error| format!("{error:#}")))
        .collect();
    if !errors.is_empty() {
        bail!("{}", errors.join("; "));
    }
    Ok(())
}

fn test(layer: Layer, release: bool) -> Result<()> {
    match layer {
        Layer::Unit => cargo_test(&["--lib", "--bins", "--test", "loopback"]),
        Layer::Ebpf => cargo_test(&["--test", "ebpf"]),
        Layer::Node => cargo_test(&["--test", "network"]),
        Layer::Cluster => cluster(release, &["--test", "harness", "--test", "cluster"]),
        Layer::Swarm => cluster(release, &["--test", "swarm"]),
        Layer::Oracle => cluster(release, &["--test", "oracle"]),
        Layer::Ingress => cluster(release, &["--test", "ingress"]),
    }
}

fn cluster(release: bool, tests: &[&str]) -> Result<()> {
    let binary = build_agent(release)?;
    let mut command = test_command(tests);
    step::loud("cluster tests", command.env("SKEP_BINARY", binary))
}

/// Builds the agent; the path of its binary.
pub fn build_agent(release: bool) -> Result<std::path::PathBuf> {
    let mut arguments = vec!["build", "--locked", "--workspace", "--bin", "skep"];
    if release {
        arguments.push("--release");
    }
    step::timed("build the agent", || {
        step::quiet("build the agent", &mut step::cargo(&arguments))
    })?;
    Ok(skep_tests::target_dir().join(if release { "release/skep" } else { "debug/skep" }))
}

fn cargo_test(arguments: &[&str]) -> Result<()> {
    step::loud("cargo test", &mut test_command(arguments))
}

/// Always the whole workspace, though few targets of it: a choice of packages is a choice of features,
/// and each would build the dependencies anew.
fn test_command(arguments: &[&str]) -> std::process::Command {
    step::cargo(&[&["test", "--locked", "--no-fail-fast", "--workspace"], arguments].concat())
}
