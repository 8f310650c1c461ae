//! Skep under measurement: three managers, an address, and services with and without a task on its holder.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde_json::Value;
use skep_tests::client::unix_ms;
use skep_tests::swarm::{self, TaskContainer};
use skep_tests::{Cluster, Node, Session, command, until};

use super::marks;
use super::measure::{Seen, Watch};

pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 100);
const PATIENCE: Duration = Duration::from_secs(90);
/// Even on two nodes: what is added to that and taken away again is the newest task.
const REPLICAS: usize = 4;
/// The port of a service with a task on every node. The one without a task on node N has the N-th port after it.
const EVERYWHERE: u16 = 8080;
const WATCHED: Duration = Duration::from_secs(8);
/// Scaling under the sessions takes its time.
const WATCHED_SCALED: Duration = Duration::from_secs(35);
const BEFORE_KILL: Duration = Duration::from_millis(1500);
/// What is watched less long than this after the kill may have missed the end of the gap.
const LEAST_AFTER_KILL: Duration = Duration::from_secs(3);

/// Who is killed, and through what the address is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// The holder runs no task of the service and does not lead.
    Plain,
    /// The holder runs a task of the service.
    Backend,
    /// The holder leads the swarm.
    Leader,
    /// Both.
    LeaderBackend,
    /// As plain, and the service was scaled up and down under the sessions.
    Scaled,
}

impl Variant {
    pub const ALL: [Self; 5] = [
        Self::Plain,
        Self::Backend,
        Self::Leader,
        Self::LeaderBackend,
        Self::Scaled,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Backend => "backend",
            Self::Leader => "leader",
            Self::LeaderBackend => "leader-backend",
            Self::Scaled => "scaled",
        }
    }

    fn leads(self) -> bool {
        matches!(self, Self::Leader | Self::LeaderBackend)
    }

    fn has_backend(self) -> bool {
        matches!(self, Self::Backend | Self::LeaderBackend)
    }
}

/// One kill.
pub struct Kill {
    pub variant: Variant,
    pub seen: Seen,
    pub killed_ms: u128,
    /// Until the last living node had marked the dead one.
    pub detection_ms: Option<f64>,
    /// Until the first living node knew another holder.
    pub taken_over_ms: Option<f64>,
    pub wrong_marks: usize,
    /// Sessions that ended though their task lives.
    pub lost: Vec<Session>,
    /// Sessions whose task ran on the dead node, or was gone before.
    pub ended: Vec<Session>,
}

/// A swarm with its address and services.
pub struct Swarm {
    pub cluster: Cluster,
    binary: PathBuf,
}

impl Swarm {
    pub fn start(binary: &Path) -> Result<Self> {
        let cluster = Cluster::builder("bench")
            .nodes(3)
            .agent(binary.to_path_buf())
            .build()?;
        swarm::form(&cluster)?;
        let all = Self {
            cluster,
            binary: binary.to_path_buf(),
        };
        all.skep(
            all.cluster.node(1),
            &["ingress", "address", "add", &format!("{ADDRESS}/24")],
        )?;
        let spread = ["--replicas", "3", "--replicas-max-per-node", "1"];
        all.create("everywhere", &spread, EVERYWHERE)?;
        for node in &all.cluster.nodes {
            let (name, constraint) = (service(node), format!("node.hostname!={}", node.name()));
            let replicas = REPLICAS.to_string();
            all.create(
                &name,
                &["--replicas", &replicas, "--constraint", &constraint],
                port(node),
            )?;
        }
        all.whole()?;
        Ok(all)
    }

    fn create(&self, name: &str, placement: &[&str], port: u16) -> Result<()> {
        let (tcp, udp) = (format!("{port}:80"), format!("{port}:80/udp"));
        let begin = ["service", "create", "--detach", "--name", name];
        let end = [
            "--publish",
            &tcp,
            "--publish",
            &udp,
            "--no-resolve-image",
            "skep-test",
        ];
        let arguments = [&begin[..], placement, &end[..]].concat();
        self.cluster.node(1).docker_ok(&arguments)?;
        Ok(())
    }

    fn skep(&self, node: &Node, arguments: &[&str]) -> Result<String> {
        let mut command = std::process::Command::new(&self.binary);
        command.args(arguments).env("DOCKER_HOST", node.docker_host());
        command::run(&mut command, Duration::from_secs(30))?.ok()
    }

    fn living(&self) -> Result<&Node> {
        let mut nodes = self.cluster.nodes.iter();
        nodes.find(|node| node.is_alive()).context("no node lives")
    }

    /// The name of the node that holds the address, in the eyes of `node`.
    pub fn holder(&self, node: &Node) -> Result<Option<String>> {
        let text = self.skep(node, &["ingress", "ls", "-o", "json"])?;
        let list: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let wanted = ADDRESS.to_string();
        let mut entries = list.as_array().into_iter().flatten();
        let entry = entries
            .find(|entry| entry["address"].as_str().and_then(|text| text.split('/').next()) == Some(&wanted));
        let entry = entry.with_context(|| format!("{ADDRESS} is not in {text}"))?;
        Ok(entry["holder"].as_str().map(ToString::to_string))
    }

    fn held_by(&self, name: &str) -> Result<()> {
        let (_, _) = until(&format!("{name} holds {ADDRESS}"), PATIENCE, || {
            for node in &self.cluster.nodes {
                let holder = self.holder(node)?;
                if holder.as_deref() != Some(name) {
                    bail!("{} sees {holder:?}", node.name());
                }
            }
            Ok(Some(()))
        })?;
        Ok(())
    }

    /// Three Ready nodes, a leader, a holder, all tasks and no mark.
    pub fn whole(&self) -> Result<()> {
        let node = self.living()?;
        swarm::wait_for_nodes(node, self.cluster.nodes.len(), PATIENCE)?;
        let all = self.cluster.nodes.len();
        let spread = format!("{all}/{all} (max 1 per node)");
        swarm::wait_for_replicas(node, "everywhere", &spread, PATIENCE)?;
        for member in &self.cluster.nodes {
            swarm::wait_for_replicas(
                node,
                &service(member),
                &format!("{REPLICAS}/{REPLICAS}"),
                PATIENCE,
            )?;
        }
        until("no mark on any node", PATIENCE, || {
            Ok(marks::none_left(&self.cluster)?.then_some(()))
        })?;
        until("a holder", PATIENCE, || self.holder(node))?;
        // A published port answers through every node before one of them goes.
        for member in &self.cluster.nodes {
            until("an answer through the node", PATIENCE, || {
                let url = format!("http://{}:{EVERYWHERE}/", member.address());
                Ok(self.cluster.client.get(&url, 1)?[0].ok.then_some(()))
            })?;
        }
        Ok(())
    }

    fn victim(&self, variant: Variant) -> Result<&Node> {
        let node = self.living()?;
        let rows = swarm::nodes(node)?;
        let holder = self.holder(node)?;
        let fits = |name: &str| {
            let leads = rows.iter().any(|[row, _, role]| row == name && role == "Leader");
            leads == variant.leads()
        };
        let mut all = self.cluster.nodes.iter().filter(|node| fits(node.name()));
        let held = all.clone().find(|node| holder.as_deref() == Some(node.name()));
        held.or_else(|| all.next()).context("no node to kill")
    }

    /// Moves the address to where the variant wants it; the node that holds it now and is to be killed.
    pub fn prepare(&self, variant: Variant) -> Result<&Node> {
        let victim = self.victim(variant)?;
        let other = self.other(victim)?;
        if self.holder(other)?.as_deref() != Some(victim.name()) {
            self.skep(other, &["ingress", "move", &ADDRESS.to_string(), victim.name()])?;
        }
        self.held_by(victim.name())?;
        if variant == Variant::Scaled {
            self.spread_anew(other, &service(victim))?;
        }
        Ok(victim)
    }

    /// Earlier kills may have left all tasks on one node; then scaling down would take one of the old ones.
    fn spread_anew(&self, node: &Node, name: &str) -> Result<()> {
        for replicas in [0, REPLICAS] {
            self.scale(node, name, replicas)?;
        }
        Ok(())
    }

    /// Waits until so many containers run, no more and no fewer.
    fn scale(&self, node: &Node, name: &str, replicas: usize) -> Result<()> {
        node.docker_ok(&["service", "scale", "--detach", &format!("{name}={replicas}")])?;
        swarm::wait_for_replicas(node, name, &format!("{replicas}/{replicas}"), PATIENCE)?;
        until("as many containers", PATIENCE, || {
            let running = swarm::containers(&self.cluster, name)?;
            Ok((running.len() == replicas).then_some(()))
        })?;
        Ok(())
    }

    /// Kills the holder under load.
    pub fn kill(&self, variant: Variant, victim: &Node) -> Result<Kill> {
        let other = self.other(victim)?;
        let (port, name) = if variant.has_backend() {
            (EVERYWHERE, "everywhere".to_string())
        } else {
            (port(victim), service(victim))
        };
        let index = self.index(other, victim)?;
        let begin_ms = unix_ms();
        let scaled = variant == Variant::Scaled;
        let length = if scaled { WATCHED_SCALED } else { WATCHED };
        let began = Instant::now();
        let watch = Watch::start(&self.cluster.client, ADDRESS, port, length)?;
        std::thread::sleep(BEFORE_KILL);
        if scaled {
            for replicas in [REPLICAS + 1, REPLICAS] {
                self.scale(other, &name, replicas)?;
            }
        }
        let survivors: Vec<TaskContainer> = swarm::containers(&self.cluster, &name)?
            .into_iter()
            .filter(|task| task.node != victim.number())
            .collect();
        let left = length.saturating_sub(began.elapsed());
        ensure!(
            left > LEAST_AFTER_KILL,
            "only {left:.1?} of watching are left before the kill: the machine is too slow"
        );
        let killed_ms = victim.kill_now()?;
        let seen = watch.finish()?;
        let lives = |session: &&Session| survivors.iter().any(|task| task.hostname() == session.task);
        let failed = seen.sessions.iter().filter(|session| !session.ok);
        let (lost, ended): (Vec<&Session>, Vec<&Session>) = failed.partition(lives);
        Ok(Kill {
            variant,
            killed_ms,
            detection_ms: marks::detection_ms(&self.cluster, index, killed_ms)?,
            taken_over_ms: marks::taken_over_ms(&self.cluster, index, killed_ms)?,
            wrong_marks: marks::wrong(&self.cluster, Some(index), begin_ms)?,
            lost: lost.into_iter().cloned().collect(),
            ended: ended.into_iter().cloned().collect(),
            seen,
        })
    }

    /// Starts a killed node anew and waits until the swarm is whole.
    pub fn revive(&self, victim: &Node) -> Result<()> {
        victim.revive()?;
        self.whole()
    }

    fn other(&self, victim: &Node) -> Result<&Node> {
        let mut nodes = self.cluster.nodes.iter();
        nodes
            .find(|node| node.number() != victim.number())
            .context("no other node")
    }

    /// The number by which the nodes' logs know `node`.
    fn index(&self, asked: &Node, node: &Node) -> Result<u32> {
        let text = self.skep(asked, &["status", "-o", "json"])?;
        let status: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let mut nodes = status["swarm"]["nodes"].as_array().into_iter().flatten();
        let entry = nodes.find(|entry| entry["hostname"] == node.name());
        let index = entry.and_then(|entry| entry["index"].as_u64());
        let index = index.with_context(|| format!("{} has no index in {text}", node.name()))?;
        Ok(u32::try_from(index)?)
    }
}

fn service(node: &Node) -> String {
    format!("not-on-{}", node.name())
}

fn port(node: &Node) -> u16 {
    EVERYWHERE + u16::try_from(node.number()).unwrap_or(0)
}
