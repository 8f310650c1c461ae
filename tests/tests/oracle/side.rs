//! One of the two clusters, and a script's steps on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use skep_tests::{Cluster, Output, command, swarm};

use super::http;
use super::normal::{self, Leaves, normal};
use super::script::{Action, Step, words};

/// The version that dockerd here speaks, on both sides.
pub const VERSION: &str = "1.41";
const PATIENCE: Duration = Duration::from_secs(60);
/// A state that needs a feature which is not there never comes.
const PATIENCE_UNBUILT: Duration = Duration::from_secs(2);
/// 1000 KiB, the most that a config may have.
const CONFIG_MAX: usize = 1000 * 1024;

pub struct Side {
    pub cluster: Cluster,
    /// This is Swarm: what it never shows is a mistake of the script.
    oracle: bool,
}

/// What each script starts with, and `let` adds to.
pub type Variables = BTreeMap<String, String>;

impl Side {
    /// A cluster of one manager; with an agent it is Skep, without one dockerd's Swarm mode.
    pub fn build(label: &str, agent: bool) -> Result<Self> {
        let builder = Cluster::builder(label);
        let builder = if agent { builder } else { builder.without_agent() };
        let cluster = builder.build()?;
        swarm::form(&cluster)?;
        Ok(Self {
            cluster,
            oracle: !agent,
        })
    }

    /// Runs all steps in order. What a step answers is data; an error is a failure of the test itself.
    pub fn run(&self, steps: &[Step], unbuilt: &dyn Fn(&str) -> bool) -> Result<Vec<Leaves>> {
        let mut variables = constants();
        steps
            .iter()
            .map(|step| {
                self.step(step, &mut variables, unbuilt(&step.id))
                    .with_context(|| step.id.clone())
            })
            .collect()
    }

    fn step(&self, step: &Step, variables: &mut Variables, unbuilt: bool) -> Result<Leaves> {
        let mut seen = Leaves::new();
        match &step.action {
            Action::Cli(arguments) => {
                let output = self.docker(&fill(arguments, variables))?;
                seen.insert(".exit".to_string(), output.code.to_string());
                normal::leaves(".stdout", &ordered(&output.stdout), &mut seen);
                seen.insert(".stderr".to_string(), normal(output.stderr.trim()));
            }
            Action::Api { method, path, body } => {
                let body = body.as_ref().map(|body| fill(body, variables));
                let reply = self.request(method, &fill(path, variables), body.as_deref())?;
                seen.insert(".status".to_string(), reply.status.to_string());
                normal::leaves(".body", &reply.body, &mut seen);
            }
            Action::Wait { text, arguments } => {
                let short = unbuilt && !self.oracle;
                let patience = if short { PATIENCE_UNBUILT } else { PATIENCE };
                let last = self.wait(text, &fill(arguments, variables), patience)?;
                ensure!(
                    !self.oracle || last == normal(text),
                    "not {text:?}, last {last:?}"
                );
                seen.insert(".waited".to_string(), last);
            }
            Action::Let { name, arguments } => {
                let output = self.docker(&fill(arguments, variables))?;
                seen.insert(".exit".to_string(), output.code.to_string());
                variables.insert(name.clone(), output.stdout.trim().to_string());
            }
        }
        Ok(seen)
    }

    /// `docker LINE` on the cluster's node.
    pub fn docker(&self, line: &str) -> Result<Output> {
        let arguments = words(line)?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut docker = self.cluster.node(1).docker_command(&arguments);
        docker
            .env("DOCKER_API_VERSION", VERSION)
            .current_dir(super::DIRECTORY);
        command::run(&mut docker, PATIENCE)
    }

    /// One request; a path without a version gets [`VERSION`].
    pub fn request(&self, method: &str, path: &str, body: Option<&str>) -> Result<http::Reply> {
        let path = if path.starts_with("/v") {
            path.to_string()
        } else {
            format!("/v{VERSION}{path}")
        };
        // As every client sends it: hyper and Go differ in what else they take.
        let escaped = [("{", "%7B"), ("}", "%7D"), ("\"", "%22"), (" ", "%20")];
        let path = escaped
            .iter()
            .fold(path, |path, (from, to)| path.replace(from, to));
        http::request(&self.cluster.node(1).docker_host(), method, &path, body)
    }

    /// The text that came, or the last other one.
    fn wait(&self, text: &str, arguments: &str, patience: Duration) -> Result<String> {
        let begin = Instant::now();
        loop {
            let output = self.docker(arguments)?;
            let lines: Vec<&str> = output.stdout.split_whitespace().collect();
            let now = lines.join(" ");
            if now == text || begin.elapsed() > patience {
                return Ok(normal(&now));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Removes everything that a script may have left.
    pub fn clean(&self) -> Result<()> {
        for kind in ["service", "config", "secret"] {
            let found = self.docker(&format!("{kind} ls --quiet"))?.ok()?;
            for id in found.lines() {
                self.docker(&format!("{kind} rm {id}"))?.ok()?;
            }
        }
        // Those that ended, Swarm keeps longer.
        let tasks = "ps --quiet --filter label=com.docker.swarm.task.id";
        let left = self.wait("", tasks, PATIENCE)?;
        ensure!(left.is_empty(), "containers of tasks stay: {left}");
        let networks = "network ls --filter type=custom --format {{.Name}}";
        for name in self.docker(networks)?.ok()?.lines() {
            if !["ingress", "docker_gwbridge"].contains(&name) {
                self.docker(&format!("network rm {name}"))?.ok()?;
            }
        }
        Ok(())
    }
}

/// Lists come in no order, and the CLI creates a stack's services in none; JSON is left alone.
fn ordered(text: &str) -> String {
    if text.starts_with(['[', '{']) {
        return text.to_string();
    }
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Texts that are too long for a script.
fn constants() -> Variables {
    let base64 = |bytes: usize| {
        let rest = ["", "YQ==", "YWE="][bytes % 3];
        format!("{}{rest}", "YWFh".repeat(bytes / 3))
    };
    [
        ("A63", "a".repeat(63)),
        ("A64", "a".repeat(64)),
        ("CONFIG_MAX", base64(CONFIG_MAX)),
        ("CONFIG_OVER", base64(CONFIG_MAX + 1)),
        ("SECRET_MAX", base64(500 * 1024)),
        ("SECRET_OVER", base64(500 * 1024 + 1)),
    ]
    .map(|(name, text)| (name.to_string(), text))
    .into()
}

fn fill(text: &str, variables: &Variables) -> String {
    variables.iter().fold(text.to_string(), |text, (name, value)| {
        text.replace(&format!("${{{name}}}"), value)
    })
}
