//! Compiles the eBPF programs into the object that `ebpf/loader` embeds.
//!
//! rustup's stable has no `core` for `bpfel-unknown-none`. Debian's rustc-web brings one prebuilt; with rustup's rust-src
//! it can be built on the way. Either serves, as long as bpf-linker was built with the same LLVM.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

const TARGET: &str = "bpfel-unknown-none";
const BINARY: &str = "skep-datapath";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Where the finished object lies, whatever CARGO_TARGET_DIR says.
pub fn object_path() -> PathBuf {
    output_dir().join("skep-datapath.o")
}

/// Builds the object unless it is newer than everything it is made of.
///
/// # Errors
/// When no compiler with a `core` for BPF is found, bpf-linker is missing or of another LLVM, or the build fails.
pub fn run() -> Result<()> {
    let object = object_path();
    if is_fresh(&object)? {
        println!("build-ebpf: {} is up to date", object.display());
        return Ok(());
    }
    let compiler = Compiler::find()?;
    println!("build-ebpf: {}", compiler.describe());
    check_linker(compiler.llvm_major()?)?;
    let target_dir = output_dir().join("cargo");
    compile(&compiler, &target_dir)?;
    let built = target_dir.join(TARGET).join("release").join(BINARY);
    // Renamed into place, so that a build beside this one never embeds half an object.
    let partial = object.with_extension(format!("o.{}", std::process::id()));
    std::fs::copy(&built, &partial).with_context(|| format!("copy {}", built.display()))?;
    std::fs::rename(&partial, &object).with_context(|| format!("move to {}", object.display()))?;
    println!(
        "build-ebpf: wrote {} ({} bytes)",
        object.display(),
        std::fs::metadata(&object)?.len()
    );
    Ok(())
}

fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
}

fn output_dir() -> PathBuf {
    workspace_root().join("target/ebpf")
}

/// The two ways to a `core` for BPF.
enum Compiler {
    Debian,
    RustSrc,
}

impl Compiler {
    fn find() -> Result<Self> {
        if Path::new("/usr/lib/rustlib").join(TARGET).join("lib").is_dir() && Path::new(DEBIAN_RUSTC).exists()
        {
            return Ok(Compiler::Debian);
        }
        let sysroot = output_of(Command::new("rustc").args(["--print", "sysroot"]))?;
        if Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core")
            .is_dir()
        {
            return Ok(Compiler::RustSrc);
        }
        bail!(
            "no compiler with a `core` for {TARGET}: install Debian's (apt-get install rustc-web cargo-web \
             libstd-rust-web-dev-bpf) or rustup's sources (rustup component add rust-src); `cargo xtask setup` does it"
        );
    }

    fn rustc(&self) -> &'static str {
        match self {
            Compiler::Debian => DEBIAN_RUSTC,
            Compiler::RustSrc => "rustc",
        }
    }

    fn describe(&self) -> String {
        match self {
            Compiler::Debian => format!("{DEBIAN_RUSTC} with Debian's prebuilt core for {TARGET}"),
            Compiler::RustSrc => format!("rustup's rustc with rust-src, building core for {TARGET}"),
        }
    }

    fn llvm_major(&self) -> Result<u32> {
        let version = output_of(Command::new(self.rustc()).arg("-vV"))?;
        version
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))
            .and_then(|version| version.split('.').next())
            .and_then(|major| major.parse().ok())
            .with_context(|| format!("{} -vV names no LLVM version", self.rustc()))
    }
}

/// Bitcode of a newer LLVM is unreadable to an older linker, with an error nobody understands.
fn check_linker(rustc_major: u32) -> Result<()> {
    let path = output_of(Command::new("sh").args(["-c", "command -v bpf-linker"]))
        .context("bpf-linker is not in PATH: `cargo xtask setup` installs it")?;
    let libraries = output_of(Command::new("ldd").arg(path.trim()))?;
    let linked = libraries
        .split_once("libLLVM")
        .map(|(_, rest)| rest.trim_start_matches(|c: char| !c.is_ascii_digit()))
        .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>())
        .and_then(|major| major.parse::<u32>().ok());
    match linked {
        Some(major) if major != rustc_major => {
            bail!(
                "bpf-linker was built with LLVM {major}, rustc with {rustc_major}: they must match (`cargo xtask setup`)"
            )
        }
        Some(_) => Ok(()),
        None => {
            println!("build-ebpf: bpf-linker carries its LLVM inside, its version cannot be checked");
            Ok(())
        }
    }
}

fn compile(compiler: &Compiler, target_dir: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(workspace_root())
        .args([
            "build",
            "--release",
            "--package",
            "skep-ebpf-programs",
            "--features",
            "kernel",
        ])
        .args(["--bin", BINARY, "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .env("RUSTC", compiler.rustc())
        // Stable compilers accept the BPF target's unstable parts only so.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        // rustup's cargo hands these to what it starts; Debian's compiler must not inherit them.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO_TARGET_DIR")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            "-Clinker=bpf-linker\u{1f}-Clink-arg=--btf\u{1f}-Cdebuginfo=2",
        );
    if matches!(compiler, Compiler::RustSrc) {
        cargo.arg("-Zbuild-std=core");
    }
    let status = cargo.status().context("start cargo")?;
    if !status.success() {
        bail!("building the eBPF programs failed ({status})");
    }
    Ok(())
}

fn is_fresh(object: &Path) -> Result<bool> {
    let Ok(built) = std::fs::metadata(object).and_then(|meta| meta.modified()) else {
        return Ok(false);
    };
    let root = workspace_root();
    for source in [
        "ebpf/common",
        "ebpf/programs",
        "Cargo.lock",
        "xtask/src/build_ebpf.rs",
    ] {
        if newest(&root.join(source))? > built {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Newest modification time of a file, or of anything below a directory.
fn newest(path: &Path) -> Result<SystemTime> {
    let meta = std::fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    let mut latest = meta
        .modified()
        .with_context(|| format!("look at {}", path.display()))?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
            latest = latest.max(newest(&entry?.path())?);
        }
    }
    Ok(latest)
}

fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {command:?}"))
}
