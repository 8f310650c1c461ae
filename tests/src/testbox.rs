//! Builds the static program that runs inside nodes and images.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{command, target_dir, workspace};

/// Path of the program, built if its sources are newer.
pub fn build() -> Result<PathBuf> {
    let triple = host_triple()?;
    let directory = target_dir().join("testbox");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = command::run(
        Command::new(cargo)
            .current_dir(workspace())
            .args([
                "build",
                "--quiet",
                "--release",
                "--package",
                "skep-testbox",
                "--target",
                &triple,
            ])
            .arg("--target-dir")
            .arg(&directory)
            .env("RUSTFLAGS", "-Ctarget-feature=+crt-static"),
        Duration::from_secs(600),
    )?;
    output.ok()?;
    Ok(directory.join(triple).join("release/skep-testbox"))
}

fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = command::run(Command::new(rustc).arg("-vV"), Duration::from_secs(30))?.ok()?;
    let line = output.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.context("rustc -vV names no host")?.to_string())
}
