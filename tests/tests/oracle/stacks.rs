//! The stack files of `stacks/`: each deployed, looked at, and removed, on both sides.
//!
//! A line `# wait SERVICE N/N` in a file waits for its tasks; most files have no replicas, since what is compared is the
//! services. A file `NAME.2.yml` is deployed over `NAME.yml` with `--prune`.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::{DIRECTORY, Stage, read, script};

const LEAST_FILES: usize = 20;

pub fn all(stage: &Stage) -> Result<()> {
    let mut files: Vec<String> = Vec::new();
    for entry in fs::read_dir(format!("{DIRECTORY}/stacks"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        files.extend(name.strip_suffix(".yml").map(ToString::to_string));
    }
    files.sort();
    ensure!(files.len() >= LEAST_FILES, "{} stack files only", files.len());
    let mut lines = String::new();
    for file in files.iter().filter(|file| !file.ends_with(".2")) {
        lines += &steps(file, &files).with_context(|| file.clone())?;
    }
    stage.compare(&script::parse("stacks", &lines)?)?;
    stage.both(super::Side::clean).map(|_| ())
}

/// The script of one stack.
fn steps(name: &str, files: &[String]) -> Result<String> {
    let mut lines = deploy(name, name, "deploy", "")?;
    let second = format!("{name}.2");
    if files.contains(&second) {
        lines += &deploy(name, &second, "again", " --prune")?;
    }
    lines += &format!("{name}/rm: cli stack rm {name}\n");
    // Not its tasks: those of a job outlive it in Swarm.
    let label = format!("label=com.docker.stack.namespace={name}");
    lines += &format!("{name}/gone: wait == service ls --quiet --filter {label}\n");
    Ok(lines)
}

fn deploy(name: &str, file: &str, label: &str, options: &str) -> Result<String> {
    let mut lines = format!(
        "{name}/{label}: cli stack deploy --detach=true --resolve-image never{options} -c stacks/{file}.yml {name}\n"
    );
    for line in read(&format!("stacks/{file}.yml"))?.lines() {
        if let Some(wait) = line.strip_prefix("# wait ") {
            let (service, wanted) = wait.split_once(' ').context("# wait SERVICE N/N")?;
            lines += &format!(
                "{name}/{label}-{service}: wait {wanted} == service ls --filter name={name}_{service} --format {{{{.Replicas}}}}\n"
            );
        }
    }
    let filter = format!("{{\"label\":[\"com.docker.stack.namespace={name}\"]}}");
    lines += &format!(
        "{name}/{label}-services: cli stack services {name} --format '{{{{.Name}}}} {{{{.Mode}}}} {{{{.Replicas}}}} {{{{.Image}}}} {{{{.Ports}}}}'\n"
    );
    lines += &format!(
        "{name}/{label}-ps: cli stack ps {name} --format '{{{{.Name}}}} {{{{.Image}}}} {{{{.DesiredState}}}} {{{{.Error}}}}'\n"
    );
    for kind in ["services", "networks", "secrets", "configs"] {
        lines += &format!("{name}/{label}-{kind}-json: api GET /{kind}?filters={filter}\n");
    }
    Ok(lines)
}
