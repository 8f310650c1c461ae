//! Shows commands and their output as a user would see them, and keeps time.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use skep_tests::command::{self, Output, quote};
use skep_tests::{Cluster, Node};

/// The longest a shown command may take; `service create` waits until it has converged.
const DEADLINE: Duration = Duration::from_secs(120);

struct Point {
    title: String,
    took: Duration,
    shown: Option<String>,
}

pub struct Stage<'a> {
    pub cluster: &'a Cluster,
    binary: PathBuf,
    points: RefCell<Vec<Point>>,
}

impl<'a> Stage<'a> {
    pub fn new(cluster: &'a Cluster, binary: PathBuf) -> Self {
        Self {
            cluster,
            binary,
            points: RefCell::new(Vec::new()),
        }
    }

    pub fn explain(&self) {
        println!("\nBelow, `node1$ docker ...` is the docker CLI of this machine:");
        for node in &self.cluster.nodes {
            println!(
                "    {}$ docker ...  =  docker -H {} ...",
                node.name(),
                node.docker_host()
            );
        }
        println!(
            "and `client$` is the outside client at {}.",
            self.cluster.client.address()
        );
    }

    /// One of the points; `work` says in a line what was shown.
    pub fn point(&self, title: &str, work: impl FnOnce() -> Result<String>) -> Result<()> {
        println!("\n=== {title}");
        let begin = Instant::now();
        let result = work();
        let point = Point {
            title: title.to_string(),
            took: begin.elapsed(),
            shown: result.as_ref().ok().cloned(),
        };
        self.points.borrow_mut().push(point);
        result.map(|_| ()).with_context(|| title.to_string())
    }

    /// Runs the docker CLI against a node, shown; an error if it fails.
    pub fn docker(&self, node: &Node, arguments: &[&str]) -> Result<String> {
        let words: Vec<String> = arguments.iter().map(|word| quote(word)).collect();
        println!("\n{}$ docker {}", node.name(), words.join(" "));
        let output = command::run_showing(&mut node.docker_command(arguments), DEADLINE, &|line| {
            println!("{line}")
        })?;
        output.ok()
    }

    /// Runs the `skep` command against a node, shown; an error if it fails.
    pub fn skep(&self, node: &Node, arguments: &[&str]) -> Result<String> {
        let words: Vec<String> = arguments.iter().map(|word| quote(word)).collect();
        println!("\n{}$ skep {}", node.name(), words.join(" "));
        let output = self.run_skep(node, arguments)?;
        let text = output.ok()?;
        // Not trimmed at its begin: a table's first line would move.
        output
            .stdout
            .lines()
            .for_each(|line| println!("{}", line.trim_end()));
        Ok(text)
    }

    /// Runs the `skep` command against a node, not shown.
    pub fn skep_unseen(&self, node: &Node, arguments: &[&str]) -> Result<String> {
        self.run_skep(node, arguments)?.ok()
    }

    fn run_skep(&self, node: &Node, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("DOCKER_HOST", node.docker_host());
        command::run(&mut command, DEADLINE)
    }

    /// How to run `skep` by hand.
    pub fn explain_skep(&self, node: &Node) {
        println!(
            "    {}$ skep ...  =  DOCKER_HOST={} {} ...",
            node.name(),
            node.docker_host(),
            self.binary.display()
        );
    }

    /// Shows a command of the outside client that is run in another way.
    pub fn client_line(&self, line: &str) {
        println!("\nclient$ {line}");
    }

    /// Runs a program of the container, shown without its output.
    pub fn exec(&self, node: &Node, container: &str, arguments: &[&str]) -> Result<Output> {
        let words: Vec<String> = arguments.iter().map(|word| quote(word)).collect();
        println!("{}$ docker exec {} {}", node.name(), container, words.join(" "));
        node.docker(&[&["exec", container], arguments].concat())
    }

    pub fn summary(&self) {
        println!(
            "\n=== Summary (three nodes in {:.1} s)",
            self.cluster.built_in().as_secs_f64()
        );
        for point in self.points.borrow().iter() {
            let shown = point.shown.as_deref().unwrap_or("NOT AS PROMISED");
            println!(
                "{:>6.1} s  {}\n          {shown}",
                point.took.as_secs_f64(),
                point.title
            );
        }
        println!();
    }
}
