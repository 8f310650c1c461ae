//! Embeds the eBPF object that `cargo xtask build-ebpf` leaves at a fixed place.

use std::path::Path;

fn main() {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| String::from("."));
    let object = Path::new(&manifest).join("../../target/ebpf/skep-datapath.o");
    println!("cargo:rerun-if-changed={}", object.display());
    if !object.exists() {
        println!(
            "cargo:error=the eBPF programs are not built yet: run `cargo xtask build-ebpf` (it writes {})",
            object.display()
        );
        return;
    }
    println!("cargo:rustc-env=SKEP_DATAPATH_OBJECT={}", object.display());
}
