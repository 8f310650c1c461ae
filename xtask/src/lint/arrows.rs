//! Which crate may know which: the picture in ARCHITECTURE.md. A new arrow edits the picture and this.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use skep_tests::command;

use crate::step;

/// Each crate of the product and the crates it may depend on. Development crates may know all.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "skep-agent",
        &["skep-control", "skep-dns", "skep-ebpf-loader", "skep-ebpf-common"],
    ),
    ("skep-control", &[]),
    ("skep-dns", &[]),
    ("skep-ebpf-loader", &["skep-ebpf-common"]),
    ("skep-ebpf-programs", &["skep-ebpf-common"]),
    ("skep-ebpf-common", &[]),
];
const DEVELOPMENT: &[&str] = &["skep-tests", "skep-testbox", "xtask"];

pub fn run() -> Result<()> {
    let mut command = step::cargo(&["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let text = command::run(&mut command, Duration::from_secs(60))?.ok()?;
    let wrong = wrong_arrows(&serde_json::from_str(&text)?)?;
    if !wrong.is_empty() {
        bail!(
            "arrows that the picture in ARCHITECTURE.md does not have:\n  {}",
            wrong.join("\n  ")
        );
    }
    Ok(())
}

fn wrong_arrows(metadata: &Value) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for package in metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?
    {
        let name = package["name"].as_str().unwrap_or_default();
        if DEVELOPMENT.contains(&name) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            wrong.push(format!("{name} is not in the picture"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            // Tests may look across.
            let ours = to.starts_with("skep-") && dependency["kind"] != "dev";
            if ours && !allowed.contains(&to) {
                wrong.push(format!("{name} -> {to}"));
            }
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_an_arrow_of_the_picture_passes() {
        let metadata = json!({"packages": [
            {"name": "skep-agent", "dependencies": [{"name": "skep-dns", "kind": null}, {"name": "tokio", "kind": null}]},
            {"name": "skep-dns", "dependencies": [
                {"name": "skep-control", "kind": null}, {"name": "skep-tests", "kind": "dev"}]},
            {"name": "skep-new", "dependencies": []},
        ]});
        let wrong = wrong_arrows(&metadata).unwrap();
        assert_eq!(
            wrong,
            ["skep-dns -> skep-control", "skep-new is not in the picture"]
        );
    }
}
