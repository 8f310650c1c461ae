//! The swarm that the tests share, and what they ask it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use skep_tests::suite::Test;
use skep_tests::swarm::{self, TaskContainer};
use skep_tests::watcher::Watcher;
use skep_tests::{Cluster, Node, target_dir, until};

use super::PATIENCE;

/// On all ports that are published.
pub const ADDRESS: &str = "192.168.50.100";

/// Port of the service that runs wherever there is room.
pub const PORT: u16 = 8080;

pub const TESTS: &[Test<Stage>] = &[
    ("an_address_is_held_and_answers", an_address_is_held_and_answers),
    (
        "an_address_that_cannot_be_is_refused",
        an_address_that_cannot_be_is_refused,
    ),
];

/// A formed swarm with an address and a service, and who listens to ARP.
pub struct Stage {
    pub cluster: Cluster,
    pub watcher: Watcher,
}

/// One entry of `skep ingress ls -o json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    pub address: String,
    pub holder: Option<String>,
    pub since: Option<String>,
    pub reason: Option<String>,
}

/// Where each node writes what its hook was called with.
const HOOK_LOG: &str = "/run/skep/hook.log";

impl Stage {
    pub fn build(label: &str, nodes: usize, managers: usize) -> Result<Self> {
        let hook = hook()?;
        let cluster = Cluster::builder(label)
            .nodes(nodes)
            .agent_options(&["--ingress-hook", &hook])
            .build()?;
        println!(
            "{nodes} nodes in {:.1?}, logs in {}",
            cluster.built_in(),
            cluster.logs().display()
        );
        swarm::form_with(&cluster, managers)?;
        let watcher = Watcher::start(&cluster)?;
        Ok(Self { cluster, watcher })
    }

    pub fn node(&self, number: usize) -> &Node {
        self.cluster.node(number)
    }

    pub fn named(&self, name: &str) -> Result<&Node> {
        let mut nodes = self.cluster.nodes.iter();
        nodes
            .find(|node| node.name() == name)
            .with_context(|| format!("no node {name:?}"))
    }

    /// The first living node that is none of these.
    pub fn other_than(&self, numbers: &[usize]) -> Result<&Node> {
        let mut living = self.cluster.living();
        living
            .find(|node| !numbers.contains(&node.number()))
            .context("no other node lives")
    }

    pub fn leader(&self) -> Result<&Node> {
        let rows = swarm::nodes(self.other_than(&[])?)?;
        let leader = rows.iter().find(|[_, _, role]| role == "Leader");
        self.named(&leader.with_context(|| format!("no leader: {rows:?}"))?[0])
    }

    /// Who holds the address, as `asked` sees it; an error if nobody does.
    pub fn holder(&self, asked: &Node, address: &str) -> Result<&Node> {
        let entry = entry(asked, address)?;
        self.named(entry.holder.as_deref().context("nobody holds it")?)
    }

    /// Moves the address and waits until everybody knows.
    pub fn moved(&self, address: &str, to: &Node) -> Result<()> {
        let asked = self.leader()?;
        asked.skep(&["ingress", "move", address, to.name()])?;
        self.agreed(address, to.number())
    }

    /// Waits until every living node sees `number` as the holder.
    pub fn agreed(&self, address: &str, number: usize) -> Result<()> {
        until("agreement on the holder", PATIENCE, || {
            for node in self.cluster.living() {
                let holder = self.holder(node, address)?;
                if holder.number() != number {
                    bail!("{} sees {}", node.name(), holder.name());
                }
            }
            Ok(Some(()))
        })?;
        Ok(())
    }

    /// Creates a service of test servers with `port`, TCP and UDP, and waits for its tasks.
    pub fn create(
        &self,
        name: &str,
        replicas: usize,
        port: u16,
        options: &[&str],
    ) -> Result<Vec<TaskContainer>> {
        let (tcp, udp) = (format!("{port}:80"), format!("{port}:80/udp"));
        let count = replicas.to_string();
        let arguments = [
            "service",
            "create",
            "--quiet",
            "--name",
            name,
            "--replicas",
            &count,
            "--publish",
            &tcp,
            "--publish",
            &udp,
            "--restart-delay",
            "0s",
        ];
        let manager = self.leader()?;
        manager.docker_ok(&[&arguments[..], options, &["skep-test"]].concat())?;
        self.settled(name, replicas)
    }

    /// Waits until the service runs as many tasks as it should; which.
    pub fn settled(&self, name: &str, replicas: usize) -> Result<Vec<TaskContainer>> {
        let wanted = format!("{replicas}/{replicas}");
        let (tasks, _) = until(&format!("{name} at {wanted}"), PATIENCE, || {
            let manager = self.leader()?;
            let now = swarm::replicas(manager, name)?;
            let tasks = swarm::containers(&self.cluster, name)?;
            // A limit for each node stands behind it.
            if now.split(' ').next() == Some(&wanted) && tasks.len() == replicas {
                return Ok(Some(tasks));
            }
            bail!("{now}, {} containers", tasks.len())
        })?;
        Ok(tasks)
    }

    pub fn remove(&self, services: &[&str]) -> Result<()> {
        self.leader()?
            .docker_ok(&[&["service", "rm"], services].concat())?;
        until("removal of the services' containers", PATIENCE, || {
            for service in services {
                let left = swarm::containers(&self.cluster, service)?;
                ensure!(left.is_empty(), "{left:?}");
            }
            Ok(Some(()))
        })?;
        Ok(())
    }

    /// Starts the nodes that are dead, and waits until the swarm is as it was.
    pub fn revive(&self) -> Result<()> {
        let dead: Vec<&Node> = self
            .cluster
            .nodes
            .iter()
            .filter(|node| !node.is_alive())
            .collect();
        std::thread::scope(|scope| {
            let starts: Vec<_> = dead.iter().map(|node| scope.spawn(|| node.revive())).collect();
            let results = starts.into_iter().map(|start| {
                start
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            results.collect::<Vec<_>>().into_iter().collect::<Result<()>>()
        })?;
        self.healthy()
    }

    /// After a test that failed: cables in, nodes alive, nothing but the address and the service of all.
    pub fn mend(&self) -> Result<()> {
        for node in self.cluster.living() {
            node.heal()?;
            node.heal_behind()?;
            node.part(false)?;
            // Where it was not made there is nothing to remove.
            node.exec(&["nft", "delete table inet deaf"])?;
            if node.agent().is_err() {
                node.start_agent()?;
            }
        }
        self.revive()?;
        let manager = self.leader()?;
        let services = manager.docker_ok(&["service", "ls", "--format", "{{.Name}}"])?;
        let services: Vec<&str> = services.lines().filter(|name| *name != "web").collect();
        if !services.is_empty() {
            self.remove(&services)?;
        }
        let text = manager.skep(&["ingress", "ls", "-o", "json"])?;
        let entries: Vec<Entry> = serde_json::from_str(&text).with_context(|| text.clone())?;
        for entry in entries {
            let address = entry.address.split('/').next().unwrap_or_default();
            if address != ADDRESS {
                manager.skep(&["ingress", "address", "rm", address])?;
            }
        }
        let last = self.cluster.nodes.last().context("no node")?;
        manager.docker_ok(&["node", "update", "--availability", "active", last.name()])?;
        let networks = manager.docker_ok(&["network", "ls", "--format", "{{.Name}}"])?;
        if networks.lines().any(|name| name == "inner") {
            manager.docker_ok(&["network", "rm", "inner"])?;
        }
        Ok(())
    }

    /// Waits until all nodes are Ready and each sees that the address is held.
    pub fn healthy(&self) -> Result<()> {
        let asked = self.other_than(&[])?;
        swarm::wait_for_nodes(asked, self.cluster.nodes.len(), PATIENCE)?;
        until("a holder that all nodes see", PATIENCE, || {
            let holder = self.holder(asked, ADDRESS)?.number();
            for node in self.cluster.living() {
                ensure!(self.holder(node, ADDRESS)?.number() == holder, "{}", node.name());
            }
            Ok(Some(()))
        })?;
        Ok(())
    }

    /// Waits until the client gets an answer from `address:port`.
    pub fn answers(&self, address: &str, port: u16) -> Result<()> {
        let url = format!("http://{address}:{port}/");
        until(&format!("an answer of {url}"), PATIENCE, || {
            let reply = &self.cluster.client.get(&url, 1)?[0];
            reply.seen().map(|_| Some(()))
        })?;
        Ok(())
    }

    /// Lines that the hook of a node wrote: address, old and new holder.
    pub fn hook_log(&self, node: &Node) -> Result<Vec<String>> {
        let output = node.exec(&["cat", HOOK_LOG])?;
        Ok(output.stdout.lines().map(ToString::to_string).collect())
    }
}

/// A script that writes down its arguments.
fn hook() -> Result<String> {
    let path = target_dir().join("ingress-hook.sh");
    fs::write(&path, format!("#!/bin/sh\necho \"$@\" >>{HOOK_LOG}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.canonicalize()?.display().to_string())
}

/// What `asked` says of the address.
pub fn entry(asked: &Node, address: &str) -> Result<Entry> {
    let text = asked.skep(&["ingress", "ls", "-o", "json"])?;
    let entries: Vec<Entry> = serde_json::from_str(&text).with_context(|| text.clone())?;
    let found = entries
        .into_iter()
        .find(|entry| entry.address.split('/').next() == Some(address));
    found.with_context(|| format!("{address} is not in {text}"))
}

/// `MS` after `killed` as the tests print it.
pub fn after(unix_ms: u128, killed: u128) -> String {
    format!("{} ms", unix_ms as i128 - killed as i128)
}

fn an_address_is_held_and_answers(stage: &Stage) -> Result<()> {
    let node = stage.node(1);
    node.skep(&["ingress", "address", "add", &format!("{ADDRESS}/24")])?;
    let (entry, took) = until("a holder", PATIENCE, || {
        let entry = entry(node, ADDRESS)?;
        Ok(entry.holder.is_some().then_some(entry))
    })?;
    println!("    held after {took:.1?}: {entry:?}");
    let since = entry.since.as_deref().unwrap_or_default();
    ensure!(
        since.contains('T') && entry.reason.as_deref() == Some("first holder"),
        "{entry:?}"
    );
    let first = stage.named(entry.holder.as_deref().unwrap_or_default())?;
    stage.agreed(ADDRESS, first.number())?;
    stage.create("web", 6, PORT, &[])?;
    stage.answers(ADDRESS, PORT)?;
    // The address is nobody else's, and it can be pinged. In a swarm that has just formed the first owner gets it when it
    // has answered for five seconds, which may be now.
    let before = stage.holder(node, ADDRESS)?.number();
    let watching = stage.watcher.watch(&[ADDRESS], Duration::from_secs(1))?;
    let ping = ["busybox", "ping", "-c", "2", "-W", "1", ADDRESS];
    ensure!(
        stage.cluster.client.exec(&ping)?.success(),
        "no echo of {ADDRESS}"
    );
    let heard = watching.finish()?;
    let after = stage.holder(node, ADDRESS)?.number();
    ensure!(!heard.is_empty(), "nobody answers ARP");
    for claim in heard {
        ensure!([before, after].contains(&claim.node()?), "{claim:?}");
    }
    // The first holder's hook was told.
    let line = format!("{ADDRESS} - {}", first.name());
    until("the hook", PATIENCE, || {
        Ok(stage.hook_log(first)?.contains(&line).then_some(()))
    })?;
    Ok(())
}

fn an_address_that_cannot_be_is_refused(stage: &Stage) -> Result<()> {
    let node = stage.node(2);
    let add = ["ingress", "address", "add"];
    for (address, word) in [
        ("192.168.50.100/24", "exists"),
        ("192.168.50.101", "prefix"),
        ("fd00::1/64", "IPv6"),
    ] {
        let error = node.skep_output(&[&add[..], &[address]].concat())?.refused()?;
        ensure!(error.contains(word), "{address}: {error}");
    }
    let error = node
        .skep_output(&["ingress", "move", ADDRESS, "node9"])?
        .refused()?;
    ensure!(error.contains("node9"), "{error}");
    ensure!(
        node.skep_output(&["ingress", "address", "rm", "192.168.50.199"])?
            .refused()?
            .contains("not found")
    );
    Ok(())
}
