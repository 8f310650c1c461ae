//! Embeds the eBPF object that `cargo xtask build-ebpf` leaves at a fixed place.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

const COMMAND: &str = "run `cargo xtask build-ebpf`";

fn main() {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| String::from("."));
    let crate_dir = Path::new(&manifest);
    let object = crate_dir.join("../../target/ebpf/skep-datapath.o");
    let sources = [crate_dir.join("../common/src"), crate_dir.join("../programs/src")];
    for path in sources.iter().chain([&object]) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    let Some(built) = modified(&object) else {
        println!(
            "cargo:error=the eBPF programs are not built yet: {COMMAND} (it writes {})",
            object.display()
        );
        return;
    };
    // An object of other sources would load, and then fail at its maps.
    if let Some(newer) = sources.iter().find_map(|directory| newer_than(directory, built)) {
        println!(
            "cargo:error={} is newer than the eBPF programs as built: {COMMAND}",
            newer.display()
        );
        return;
    }
    println!("cargo:rustc-env=SKEP_DATAPATH_OBJECT={}", object.display());
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}

fn newer_than(directory: &Path, built: SystemTime) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?;
    entries.flatten().map(|entry| entry.path()).find_map(|path| {
        if path.is_dir() {
            newer_than(&path, built)
        } else {
            (modified(&path)? > built).then_some(path)
        }
    })
}
