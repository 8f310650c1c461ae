//! One of the two that are compared: a swarm of three managers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use skep_tests::{Cluster, Node, swarm};

use super::{PATIENCE, api};

/// Between two looks: short beside every figure.
const LOOK: Duration = Duration::from_millis(10);

pub struct Side {
    pub cluster: Cluster,
    /// PSS of the process that is the control plane, before there was a swarm and after, in KiB.
    pub memory: [f64; 2],
}

impl Side {
    /// dockerd's own Swarm mode.
    pub fn swarm() -> Result<Self> {
        Self::form(Cluster::builder("peer").nodes(3).without_agent().build()?)
    }

    pub fn skep(binary: PathBuf) -> Result<Self> {
        Self::form(Cluster::builder("bench").nodes(3).agent(binary).build()?)
    }

    fn form(cluster: Cluster) -> Result<Self> {
        let before = memory(cluster.node(3))?;
        swarm::form(&cluster)?;
        let after = memory(cluster.node(3))?;
        Ok(Self {
            cluster,
            memory: [before, after],
        })
    }

    /// The first node that lives.
    pub fn any(&self) -> Result<&Node> {
        self.cluster.living().next().context("no node lives")
    }

    pub fn leader(&self) -> Result<&Node> {
        let rows = swarm::nodes(self.any()?)?;
        let leader = rows.iter().find(|[_, _, role]| role == "Leader");
        let name = &leader.with_context(|| format!("no leader: {rows:?}"))?[0];
        let mut nodes = self.cluster.nodes.iter();
        nodes
            .find(|node| node.name() == name)
            .with_context(|| format!("no node {name}"))
    }

    pub fn follower(&self) -> Result<&Node> {
        let leader = self.leader()?.number();
        let mut living = self.cluster.living();
        living.find(|node| node.number() != leader).context("no follower")
    }

    /// Creates a service in the background, without a pause between a task's end and the next.
    pub fn create(&self, name: &str, replicas: usize) -> Result<()> {
        let replicas = replicas.to_string();
        let arguments = [
            "service",
            "create",
            "--quiet",
            "--detach",
            "--name",
            name,
            "--replicas",
            &replicas,
            "--restart-delay",
            "0s",
            "skep-test",
        ];
        self.any()?.docker_ok(&arguments).map(drop)
    }

    /// Ids of the service's containers that run on living nodes, as their Engines say.
    pub fn running(&self, service: &str) -> Result<Vec<(usize, String)>> {
        let label = api::filter("label", &format!("com.docker.swarm.service.name={service}"));
        let mut found = Vec::new();
        for node in self.cluster.living() {
            let listed = api::engine(node, &format!("/containers/json?{label}"))?;
            let ids = listed.as_array().into_iter().flatten();
            found.extend(ids.map(|container| {
                let id = container["Id"].as_str().unwrap_or_default();
                (node.number(), id.to_string())
            }));
        }
        Ok(found)
    }

    /// Tasks of the service that the managers know to run.
    pub fn known_to_run(&self, service: &str) -> Result<usize> {
        let filter = api::filter("service", service);
        let tasks = api::get(self.any()?, &format!("/tasks?{filter}"))?;
        let runs = |task: &&serde_json::Value| {
            task["Status"]["State"] == "running" && task["DesiredState"] == "running"
        };
        Ok(tasks.as_array().into_iter().flatten().filter(runs).count())
    }

    /// Waits until exactly so many containers run and the managers know it; since `begin`.
    pub fn settled(&self, service: &str, replicas: usize, begin: Instant) -> Result<Duration> {
        until(&format!("{service} at {replicas}"), begin, || {
            Ok(self.known_to_run(service)? == replicas && self.running(service)?.len() == replicas)
        })
    }

    /// Removes the service and waits for the end of its last container; since the request.
    pub fn remove(&self, service: &str) -> Result<Duration> {
        let begin = Instant::now();
        self.any()?.docker_ok(&["service", "rm", service])?;
        until(&format!("removal of {service}"), begin, || {
            Ok(self.running(service)?.is_empty())
        })
    }

    /// All nodes alive and Ready, and a leader.
    pub fn whole(&self) -> Result<()> {
        for node in &self.cluster.nodes {
            if !node.is_alive() {
                node.revive()?;
            }
        }
        swarm::wait_for_nodes(self.any()?, self.cluster.nodes.len(), PATIENCE).map(drop)
    }
}

/// Waits until `done`; an error of it means not yet. Since `begin`.
pub fn until(what: &str, begin: Instant, mut done: impl FnMut() -> Result<bool>) -> Result<Duration> {
    loop {
        let answer = done();
        if let Ok(true) = answer {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > PATIENCE {
            match answer {
                Err(error) => bail!("{what}: not within {PATIENCE:?}; last: {error:#}"),
                Ok(_) => bail!("{what}: not within {PATIENCE:?}"),
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// PSS of the control plane's process in KiB: the agent's, or dockerd's where there is none.
fn memory(node: &Node) -> Result<f64> {
    let process = node.agent().or_else(|_| node.dockerd())?;
    let path = format!("/proc/{}/smaps_rollup", process.pid);
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib: f64 = line
        .context("no Pss")?
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()?;
    ensure!(kib > 0.0, "{path}: no memory");
    Ok(kib)
}
