//! The swarm that the tests share, and what they ask it.

use anyhow::{Context, Result, bail, ensure};
use skep_tests::suite::Test;
use skep_tests::swarm::{self, TaskContainer};
use skep_tests::{Cluster, Node, until};

use super::PATIENCE;

pub const TESTS: &[Test<Stage>] = &[("a_service_comes_and_goes", a_service_comes_and_goes)];

/// Three managers.
pub struct Stage {
    pub cluster: Cluster,
}

impl Stage {
    pub fn build() -> Result<Self> {
        let cluster = Cluster::builder("swarm").nodes(3).build()?;
        println!(
            "three nodes in {:.1?}, logs in {}",
            cluster.built_in(),
            cluster.logs().display()
        );
        swarm::form(&cluster)?;
        Ok(Self { cluster })
    }

    pub fn node(&self, number: usize) -> &Node {
        self.cluster.node(number)
    }

    /// `docker ARGUMENTS` on the first node; its output.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        self.node(1).docker_ok(arguments)
    }

    /// `docker ARGUMENTS` on the first node, which must fail; its error.
    pub fn refused(&self, arguments: &[&str]) -> Result<String> {
        self.node(1).docker(arguments)?.refused()
    }

    /// Creates a service of test servers in the background and waits until it shows `wanted`, such as `3/3`.
    pub fn create(&self, name: &str, options: &[&str], wanted: &str) -> Result<Vec<TaskContainer>> {
        let arguments = ["service", "create", "--quiet", "--detach", "--name", name];
        self.docker(&[&arguments[..], options, &["skep-test"]].concat())?;
        swarm::wait_for_replicas(self.node(1), name, wanted, PATIENCE)?;
        swarm::containers(&self.cluster, name)
    }

    /// Removes the services and waits until none of their containers is left.
    pub fn remove(&self, services: &[&str]) -> Result<()> {
        self.docker(&[&["service", "rm"], services].concat())?;
        until("removal of the services' containers", PATIENCE, || {
            for service in services {
                let left = swarm::containers(&self.cluster, service)?;
                ensure!(left.is_empty(), "{left:?}");
            }
            Ok(Some(()))
        })?;
        Ok(())
    }

    /// After a test that failed: every node alive and active, and no service.
    pub fn mend(&self) -> Result<()> {
        for node in &self.cluster.nodes {
            if !node.is_alive() {
                node.revive()?;
            } else if node.agent().is_err() {
                node.start_agent()?;
            }
        }
        swarm::wait_for_nodes(self.node(1), self.cluster.nodes.len(), PATIENCE)?;
        for node in &self.cluster.nodes {
            self.docker(&["node", "update", "--availability", "active", node.name()])?;
            self.docker(&["node", "promote", node.name()])?;
        }
        let services = self.docker(&["service", "ls", "--quiet"])?;
        let services: Vec<&str> = services.lines().collect();
        if !services.is_empty() {
            self.docker(&[&["service", "rm"], &services[..]].concat())?;
        }
        until("removal of all tasks", PATIENCE, || {
            for node in &self.cluster.nodes {
                let left =
                    node.docker_ok(&["ps", "--quiet", "--filter", "label=com.docker.swarm.task.id"])?;
                if !left.is_empty() {
                    bail!("{}: {left}", node.name());
                }
            }
            Ok(Some(()))
        })?;
        Ok(())
    }
}

fn a_service_comes_and_goes(stage: &Stage) -> Result<()> {
    let containers = stage.create("web", &["--replicas", "3"], "3/3")?;
    let nodes: std::collections::BTreeSet<usize> = containers.iter().map(|c| c.node).collect();
    ensure!(nodes.len() == 3, "not spread: {containers:?}");
    let error = stage.refused(&["service", "create", "--name", "web", "skep-test"])?;
    ensure!(
        error.contains("name conflicts with an existing object"),
        "{error}"
    );
    stage.remove(&["web"])?;
    let left = stage.docker(&["service", "ls", "--quiet"])?;
    ensure!(left.is_empty(), "{left}");
    stage
        .node(2)
        .docker(&["service", "inspect", "web"])?
        .refused()
        .context("it is gone")?;
    Ok(())
}
