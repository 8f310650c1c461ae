//! What tests and the demo ask a swarm, by the stock docker CLI only.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::Cluster;
use crate::node::Node;
use crate::wait;

/// A running container of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskContainer {
    /// Number of its node, from 1 on.
    pub node: usize,
    /// 64 digits; the first 12 are its host name.
    pub id: String,
    /// `service.slot.taskid`.
    pub name: String,
}

impl TaskContainer {
    /// As the test server names itself.
    pub fn hostname(&self) -> &str {
        &self.id[..12.min(self.id.len())]
    }

    /// `service.slot`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(short, _)| short)
    }
}

/// Makes one swarm of all nodes, all of them managers, and waits until they are Ready.
pub fn form(cluster: &Cluster) -> Result<()> {
    form_with(cluster, cluster.nodes.len())
}

/// As [`form`], with the first `managers` nodes as managers and the others as workers.
pub fn form_with(cluster: &Cluster, managers: usize) -> Result<()> {
    let first = cluster.node(1);
    first.docker_ok(&["swarm", "init", "--advertise-addr", &first.address().to_string()])?;
    for node in &cluster.nodes[1..] {
        let role = if node.number() <= managers {
            "manager"
        } else {
            "worker"
        };
        let token = first.docker_ok(&["swarm", "join-token", "-q", role])?;
        node.docker_ok(&[
            "swarm",
            "join",
            "--token",
            &token,
            &format!("{}:2377", first.address()),
        ])?;
    }
    wait_for_nodes(first, cluster.nodes.len(), Duration::from_secs(30))?;
    Ok(())
}

/// Lines of `docker node ls`: host name, status, manager status.
pub fn nodes(node: &Node) -> Result<Vec<[String; 3]>> {
    let text = node.docker_ok(&[
        "node",
        "ls",
        "--format",
        "{{.Hostname}}|{{.Status}}|{{.ManagerStatus}}",
    ])?;
    let mut rows = Vec::new();
    for line in text.lines() {
        let mut fields = line.split('|').map(ToString::to_string);
        rows.push([(); 3].map(|()| fields.next().unwrap_or_default()));
    }
    Ok(rows)
}

/// Waits for `count` Ready nodes, one of them Leader; how long it took.
pub fn wait_for_nodes(node: &Node, count: usize, deadline: Duration) -> Result<Duration> {
    let ((), took) = wait::until(&format!("{count} Ready nodes and a Leader"), deadline, || {
        let rows = nodes(node)?;
        let ready = rows.iter().filter(|[_, status, _]| status == "Ready").count();
        let leaders = rows.iter().filter(|[_, _, role]| role == "Leader").count();
        if (ready, leaders) == (count, 1) {
            return Ok(Some(()));
        }
        bail!("{rows:?}")
    })?;
    Ok(took)
}

/// `running/wanted` as `docker service ls` shows it.
pub fn replicas(node: &Node, service: &str) -> Result<String> {
    let filter = format!("name={service}");
    let text = node.docker_ok(&[
        "service",
        "ls",
        "--filter",
        &filter,
        "--format",
        "{{.Name}} {{.Replicas}}",
    ])?;
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(service)?.strip_prefix(' '));
    Ok(found
        .with_context(|| format!("no service {service}"))?
        .to_string())
}

/// Waits until the service shows `wanted`, such as `6/6`; how long it took.
pub fn wait_for_replicas(node: &Node, service: &str, wanted: &str, deadline: Duration) -> Result<Duration> {
    let ((), took) = wait::until(&format!("{service} at {wanted}"), deadline, || {
        let now = replicas(node, service)?;
        if now == wanted {
            return Ok(Some(()));
        }
        let tasks = node.docker_ok(&["service", "ps", "--no-trunc", service])?;
        bail!("{now}\n{tasks}")
    })?;
    Ok(took)
}

/// Running containers of the service's tasks on all living nodes.
pub fn containers(cluster: &Cluster, service: &str) -> Result<Vec<TaskContainer>> {
    let label = format!("label=com.docker.swarm.service.name={service}");
    let mut found = Vec::new();
    for node in cluster.nodes.iter().filter(|node| node.is_alive()) {
        let arguments = [
            "ps",
            "--no-trunc",
            "--filter",
            &label,
            "--format",
            "{{.ID}} {{.Names}}",
        ];
        for line in node.docker_ok(&arguments)?.lines() {
            let (id, name) = line
                .split_once(' ')
                .with_context(|| format!("docker ps: {line:?}"))?;
            found.push(TaskContainer {
                node: node.number(),
                id: id.to_string(),
                name: name.to_string(),
            });
        }
    }
    Ok(found)
}

/// The service's VIP on a network.
pub fn virtual_ip(node: &Node, service: &str, network: &str) -> Result<Ipv4Addr> {
    let id = node.docker_ok(&["network", "inspect", "--format", "{{.ID}}", network])?;
    let text = node.docker_ok(&[
        "service",
        "inspect",
        "--format",
        "{{json .Endpoint.VirtualIPs}}",
        service,
    ])?;
    let list: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("VIPs {text}"))?;
    let entry = list
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["NetworkID"] == id.as_str());
    let address = entry
        .and_then(|entry| entry["Addr"].as_str())
        .and_then(|text| text.split('/').next());
    address
        .with_context(|| format!("{service} has no VIP on {network}: {text}"))?
        .parse()
        .context("VIP")
}

/// Addresses of `name` as a program in the container gets them.
pub fn resolve(node: &Node, container: &str, name: &str) -> Result<BTreeSet<Ipv4Addr>> {
    let text = node.docker_ok(&["exec", container, "skep-testbox", "resolve", name])?;
    let answer: serde_json::Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let addresses = answer["addresses"].as_array().into_iter().flatten();
    addresses
        .filter_map(|address| address.as_str())
        .map(|text| Ok(text.parse()?))
        .collect()
}

/// Host names of the servers that answered `count` requests to `url` from inside the container; an
/// error if one request failed.
pub fn ask(node: &Node, container: &str, url: &str, count: usize) -> Result<BTreeSet<String>> {
    let output = node.docker(&[
        "exec",
        container,
        "skep-testbox",
        "get",
        url,
        "--count",
        &count.to_string(),
    ])?;
    let replies = crate::client::replies(&output)?;
    ensure!(
        replies.len() == count,
        "{} of {count} requests were answered",
        replies.len()
    );
    Ok(crate::client::count_by_host(&replies)?.into_keys().collect())
}
