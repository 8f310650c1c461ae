//! Builds a cluster and takes it down.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::node::{Node, Settings};
use crate::runs::{self, Run};
use crate::space::Space;
use crate::{images, network, target_dir, testbox};

/// How many runs' logs stay under target/clusters.
const LOGS_KEPT: usize = 10;

/// What to build.
pub struct Builder {
    label: String,
    nodes: usize,
    agent: bool,
    binary: Option<PathBuf>,
    live_restore: bool,
    detached: bool,
    agent_options: Vec<String>,
}

/// A switch, a client and nodes. Dropping it removes everything, after a panic too; Ctrl-C does as well.
pub struct Cluster {
    pub client: Client,
    pub nodes: Vec<Node>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) switch: Arc<Space>,
    built_in: Duration,
    kept: bool,
}

/// What `target/demo/cluster.json` says of a running cluster.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClusterFile {
    pub nodes: Vec<NodeEntry>,
    pub client: ClientEntry,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct NodeEntry {
    pub name: String,
    pub address: String,
    /// For `nsenter --net=`.
    pub netns: String,
    pub docker_host: String,
    /// The node's first process: killing it is the node's death.
    pub pid: i32,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ClientEntry {
    pub netns: String,
    pub address: String,
}

impl Cluster {
    /// A cluster of one node with dockerd and agent. `label` names its files and cgroups:
    /// /run/skep-LABEL, /var/lib/skep-LABEL; keep it short.
    pub fn builder(label: &str) -> Builder {
        Builder {
            label: label.to_string(),
            nodes: 1,
            agent: true,
            binary: None,
            live_restore: true,
            detached: false,
            agent_options: Vec::new(),
        }
    }

    /// Node `number`, from 1 on, as their names are.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// Kills the first processes of these nodes at the same moment, see [`Node::kill_now`]; the Unix time in ms.
    pub fn kill_now(&self, numbers: &[usize]) -> Result<u128> {
        let times: Result<Vec<u128>> = numbers
            .iter()
            .map(|number| self.node(*number).kill_now())
            .collect();
        times?.last().copied().context("no node to kill")
    }

    /// The living nodes.
    pub fn living(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_alive())
    }

    /// How long building took, images and test programs included.
    pub fn built_in(&self) -> Duration {
        self.built_in
    }

    /// Where the logs of dockerd and the agents are.
    pub fn logs(&self) -> &Path {
        &self.settings.logs
    }

    /// The run directory, by which [`runs::remove`] removes it.
    pub fn directory(&self) -> &Path {
        &self.settings.run.directory
    }

    /// Where everything is, for programs that use the cluster from outside.
    pub fn describe(&self) -> Result<ClusterFile> {
        let nodes = self.nodes.iter().map(|node| {
            let space = node.space()?;
            Ok(NodeEntry {
                name: node.name().to_string(),
                address: node.address().to_string(),
                netns: space.netns(),
                docker_host: node.docker_host(),
                pid: space.init().pid,
            })
        });
        Ok(ClusterFile {
            nodes: nodes.collect::<Result<_>>()?,
            client: ClientEntry {
                netns: self.client.space().netns(),
                address: self.client.address().to_string(),
            },
        })
    }

    /// Leaves the cluster running when this process ends. It must have been built `detached`.
    pub fn keep(mut self) -> Result<()> {
        if !self.settings.detached {
            bail!("a cluster that ends with its builder cannot be kept");
        }
        self.settings.run.keep()?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.settings.run.remove()
        {
            eprintln!("the cluster was not removed completely: {error:#}");
        }
    }
}

impl Builder {
    /// Options for every agent, see [`Node::set_agent_options`].
    pub fn agent_options(mut self, options: &[&str]) -> Self {
        self.agent_options = options.iter().map(ToString::to_string).collect();
        self
    }

    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// This `skep` binary instead of the one that `agent_binary` finds.
    pub fn agent(mut self, binary: PathBuf) -> Self {
        self.binary = Some(binary);
        self
    }

    /// dockerd alone, for comparisons with real Swarm and for tests of the harness.
    pub fn without_agent(mut self) -> Self {
        self.agent = false;
        self.live_restore = false;
        self
    }

    /// Nodes that may outlive this process, see [`Cluster::keep`].
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// Starts everything, the nodes in parallel. After an error nothing is left.
    pub fn build(mut self) -> Result<Cluster> {
        let begin = Instant::now();
        let agent = if self.agent {
            Some(self.binary.take().map_or_else(agent_binary, Ok)?)
        } else {
            None
        };
        let testbox = testbox::build().context("build skep-testbox")?;
        let images = images::archive(&testbox).context("make the test images")?;
        let run = Run::begin(&self.label)?;
        let result = self.start(&run, agent, testbox, images, begin);
        if result.is_err() {
            run.remove()?;
        }
        result
    }

    fn start(
        self,
        run: &Arc<Run>,
        agent: Option<PathBuf>,
        testbox: PathBuf,
        images: PathBuf,
        begin: Instant,
    ) -> Result<Cluster> {
        let logs = log_directory(&run.directory)?;
        let switch = Arc::new(Space::start(&testbox, "switch", &[], self.detached)?);
        run.add_process(switch.init())?;
        network::switch_on(&switch)?;
        let client = Space::start(&testbox, "client", &[], self.detached)?;
        run.add_process(client.init())?;
        network::plug_in(&switch, &client, network::CLIENT_ADDRESS)?;
        let settings = Arc::new(Settings {
            run: Arc::clone(run),
            testbox: testbox.clone(),
            images,
            agent,
            live_restore: self.live_restore,
            detached: self.detached,
            logs,
        });
        let nodes: Vec<Node> = (1..=self.nodes)
            .map(|number| Node::new(number, Arc::clone(&settings), Arc::clone(&switch)))
            .collect();
        let options: Vec<&str> = self.agent_options.iter().map(String::as_str).collect();
        for node in &nodes {
            node.set_agent_options(&options)?;
        }
        std::thread::scope(|scope| {
            let starts: Vec<_> = nodes.iter().map(|node| scope.spawn(|| node.start())).collect();
            let results = starts.into_iter().map(|start| {
                start
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            results.collect::<Vec<_>>().into_iter().collect::<Result<()>>()
        })?;
        let client = Client::new(client, testbox);
        Ok(Cluster {
            client,
            nodes,
            settings,
            switch,
            built_in: begin.elapsed(),
            kept: false,
        })
    }
}

/// The `skep` binary: `SKEP_BINARY`, else the debug build.
pub fn agent_binary() -> Result<PathBuf> {
    let path = std::env::var_os("SKEP_BINARY").map_or_else(|| target_dir().join("debug/skep"), PathBuf::from);
    if !path.exists() {
        bail!(
            "{} is missing: run `cargo build -p skep-agent` or `cargo xtask test cluster`",
            path.display()
        );
    }
    path.canonicalize().with_context(|| path.display().to_string())
}

/// A directory for this run's logs; the oldest of earlier runs go.
fn log_directory(run: &Path) -> Result<PathBuf> {
    let root = target_dir().join("clusters");
    let name = run
        .strip_prefix("/run")
        .unwrap_or(run)
        .to_string_lossy()
        .trim_matches('/')
        .replace('/', "-");
    let directory = root.join(name);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let mut all: Vec<_> = fs::read_dir(&root)?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    all.sort();
    let surplus = all.len().saturating_sub(LOGS_KEPT);
    for (_, path) in all.into_iter().take(surplus) {
        fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    directory
        .canonicalize()
        .with_context(|| directory.display().to_string())
}

/// Removes all runs of a label, kept ones as well; how many there were.
pub fn take_down(label: &str) -> Result<usize> {
    let all = runs::list(label);
    for run in &all {
        runs::remove(run)?;
    }
    Ok(all.len())
}
