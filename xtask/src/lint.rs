//! Everything that can be said about the sources without running them. Needs no network once
//! `setup` has run.

mod arrows;
mod tidy;

use anyhow::{Result, bail};

use crate::{build_ebpf, setup, step};

/// Runs every check, the later ones also when an earlier one failed, and fails if one did.
pub fn run() -> Result<()> {
    setup::run(false)?;
    // The agent embeds the object, so clippy needs it to be there.
    build_ebpf::run()?;
    let clippy = [
        "clippy",
        "--quiet",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    let deny = [
        "deny",
        "--offline",
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ];
    let results = [
        step::timed("tidy", tidy::run),
        step::timed("arrows", arrows::run),
        step::timed("format", || {
            step::loud("cargo fmt", &mut step::cargo(&["fmt", "--all", "--check"]))
        }),
        step::timed("clippy", || step::loud("cargo clippy", &mut step::cargo(&clippy))),
        step::timed("deny", || step::loud("cargo deny", &mut step::cargo(&deny))),
    ];
    let errors: Vec<String> = results
        .into_iter()
        .filter_map(Result::err)
        .map(|error| format!("{error:#}"))
        .collect();
    if !errors.is_empty() {
        bail!("lint: {}", errors.join("; "));
    }
    Ok(())
}
