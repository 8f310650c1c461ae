//! Figures of a release build on this machine, beside the floor that Docker itself sets.

pub mod control;
pub mod ingress;
mod statistics;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use skep_tests::{Cluster, Node, swarm, until};

use crate::{build_ebpf, need_root, setup, step, test};

const REPLICAS: usize = 6;
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Builds a release, starts three nodes, measures and prints.
pub fn run() -> Result<()> {
    need_root("measuring")?;
    setup::run(false)?;
    build_ebpf::run()?;
    let binary = test::build_agent(true)?;
    println!(
        "binary: {:.1} MiB",
        fs::metadata(&binary)?.len() as f64 / 1048576.0
    );
    let cluster = Cluster::builder("bench").nodes(3).agent(binary).build()?;
    println!("three nodes started in {:.1?}", cluster.built_in());
    swarm::form(&cluster)?;
    cluster
        .node(1)
        .docker_ok(&["network", "create", "-d", "overlay", "app"])?;
    for round in 1..=ROUNDS {
        step::timed(&format!("round {round} of {ROUNDS}"), || deploy(&cluster))?;
    }
    create(&cluster, true)?;
    programs(&cluster)?;
    for node in &cluster.nodes {
        println!("agent of {}: PSS {:.1} MiB", node.name(), pss_kib(node)? / 1024.0);
    }
    Ok(())
}

/// The floor and the service, in turn, so that both see the same machine.
fn deploy(cluster: &Cluster) -> Result<()> {
    println!(
        "    six containers by docker run, two on each node: {:.2?}",
        floor(cluster)?
    );
    println!(
        "    docker service create to 6/6: {:.2?}",
        create(cluster, false)?
    );
    println!(
        "    a killed task's replacement: {:.2?} (restart delay 5 s)",
        replace(cluster)?
    );
    cluster.node(1).docker_ok(&["service", "rm", "web"])?;
    until("removal", PATIENCE, || {
        Ok(swarm::containers(cluster, "web")?.is_empty().then_some(()))
    })?;
    Ok(())
}

fn floor(cluster: &Cluster) -> Result<Duration> {
    let begin = Instant::now();
    let started = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..REPLICAS)
            .map(|number| {
                let node = &cluster.nodes[number % cluster.nodes.len()];
                scope.spawn(move || {
                    node.engine(&["run", "-d", "skep-test"])?
                        .ok()
                        .map(|id| (node, id))
                })
            })
            .collect();
        runs.into_iter()
            .map(|run| run.join().map_err(|_| anyhow::anyhow!("panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    let took = begin.elapsed();
    for (node, id) in started {
        node.engine(&["rm", "-f", &id])?.ok()?;
    }
    Ok(took)
}

fn create(cluster: &Cluster, published: bool) -> Result<Duration> {
    let node = cluster.node(1);
    let replicas = REPLICAS.to_string();
    let mut arguments = vec![
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--replicas",
        &replicas,
        "--network",
        "app",
    ];
    if published {
        arguments.extend(["-p", "8080:80"]);
    }
    arguments.push("skep-test");
    let begin = Instant::now();
    node.docker_ok(&arguments)?;
    swarm::wait_for_replicas(node, "web", &format!("{REPLICAS}/{REPLICAS}"), PATIENCE)?;
    Ok(begin.elapsed())
}

fn replace(cluster: &Cluster) -> Result<Duration> {
    let victim = swarm::containers(cluster, "web")?
        .into_iter()
        .next()
        .context("no task")?;
    cluster.node(victim.node).docker_ok(&["kill", &victim.name])?;
    let ((), took) = until("the replacement", PATIENCE, || {
        let now = swarm::containers(cluster, "web")?;
        Ok((now.len() == REPLICAS && !now.contains(&victim)).then_some(()))
    })?;
    Ok(took)
}

/// Size, verifier's work and time per run of the eBPF programs, under requests from outside.
fn programs(cluster: &Cluster) -> Result<()> {
    let before = fs::read_to_string(STATISTICS).with_context(|| format!("read {STATISTICS}"))?;
    fs::write(STATISTICS, "1")?;
    let result = under_load(cluster);
    fs::write(STATISTICS, before)?;
    result
}

fn under_load(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        cluster
            .client
            .get(&format!("http://{}:8080/", node.address()), 500)?;
    }
    let node = cluster.node(1);
    println!("program           xlated   jited  verified      runs   ns/run   (node1)");
    let listed = node.exec(&["bpftool", "--json", "prog", "show"])?.ok()?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    let verified = verified_instructions(node)?;
    for program in listed.as_array().into_iter().flatten() {
        let number = |field: &str| program[field].as_u64().unwrap_or(0);
        let name = program["name"].as_str().unwrap_or("-");
        // Programs of this kernel that are not of this agent.
        let Some(instructions) = verified.get(&number("id")) else {
            continue;
        };
        let (time, runs) = (number("run_time_ns"), number("run_cnt"));
        let each = time.checked_div(runs).unwrap_or(0);
        println!(
            "{name:<16} {:>7} {:>7} {instructions:>9} {runs:>9} {each:>8}",
            number("bytes_xlated"),
            number("bytes_jited")
        );
    }
    Ok(())
}

/// By program id, from the descriptors that the agent holds (proc(5), fdinfo of a BPF program).
fn verified_instructions(node: &Node) -> Result<BTreeMap<u64, u64>> {
    let directory = format!("/proc/{}/fdinfo", node.agent()?.pid);
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(Path::new(&directory)).with_context(|| directory.clone())? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let field = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(count)) = (field("prog_id"), field("verified_insns")) {
            found.insert(id, count);
        }
    }
    Ok(found)
}

fn pss_kib(node: &Node) -> Result<f64> {
    let path = format!("/proc/{}/smaps_rollup", node.agent()?.pid);
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .context("no Pss")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
