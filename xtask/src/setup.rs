//! Installs what building and testing need and what is missing, and nothing else.
//!
//! Each need is a thing that is looked for, not a package: whatever brought it, it is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use skep_tests::{command, tools};

use crate::{need_root, step};

const BPF_LINKER: &str = "0.12.0";
const CARGO_DENY: &str = "0.20.2";
const LLVM: &str = "/usr/lib/llvm-22";
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Something that must be on the machine.
struct Need {
    what: &'static str,
    why: &'static str,
    packages: &'static [&'static str],
    is_there: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need {
        what: "a Rust compiler with a core for BPF",
        why: "compiles the eBPF programs; rustup's stable cannot",
        packages: &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"],
        is_there: bpf_compiler,
    },
    Need {
        what: "LLVM 22's development files",
        why: "bpf-linker is built against the LLVM of that compiler",
        packages: &[
            "llvm-22-dev",
            "libpolly-22-dev",
            "zlib1g-dev",
            "libzstd-dev",
            "libxml2-dev",
            "g++",
        ],
        is_there: || bpf_linker() || installed("llvm-22-dev") && installed("libpolly-22-dev"),
    },
    Need {
        what: "protoc",
        why: "compiles the protobuf files of control",
        packages: &["protobuf-compiler"],
        is_there: || in_path("protoc"),
    },
    Need {
        what: "dockerd and a docker CLI",
        why: "each test node runs a dockerd of its own; the CLI drives them",
        packages: &["docker.io"],
        is_there: || in_path("dockerd") && in_path("containerd") && in_path("docker"),
    },
    Need {
        what: "a static busybox",
        why: "the test images are made of it, since no registry is asked",
        packages: &["busybox-static"],
        is_there: static_busybox,
    },
    Need {
        what: "ip",
        why: "links between the test nodes",
        packages: &["iproute2"],
        is_there: || in_path("ip"),
    },
    Need {
        what: "iptables",
        why: "dockerd's rules",
        packages: &["iptables"],
        is_there: || in_path("iptables"),
    },
    Need {
        what: "nft",
        why: "the agent's masquerade rules, and tests that read them",
        packages: &["nftables"],
        is_there: || in_path("nft"),
    },
    Need {
        what: "bpftool",
        why: "tests look at programs and maps with it",
        packages: &["bpftool"],
        is_there: || in_path("bpftool"),
    },
    Need {
        what: "Python with venv",
        why: "tests run the Docker SDK for Python and Ansible",
        packages: &["python3", "python3-venv"],
        is_there: || has_venv("/usr/bin/python3") || has_venv("python3"),
    },
    Need {
        what: "Node and npm",
        why: "tests run dockerode",
        packages: &["nodejs", "npm"],
        is_there: || in_path("node") && in_path("npm"),
    },
    Need {
        what: "Prometheus",
        why: "tests run its discovery of Swarm services",
        packages: &["prometheus"],
        is_there: || in_path("prometheus"),
    },
];

/// What only `bench ingress` needs, and only it installs.
const BENCH_NEEDS: &[Need] = &[
    Need {
        what: "keepalived",
        why: "the peer that moves an address, measured beside Skep",
        packages: &["keepalived"],
        is_there: || in_path("keepalived"),
    },
    Need {
        what: "stress-ng",
        why: "starves the nodes of CPU, to count marks that are wrong",
        packages: &["stress-ng"],
        is_there: || in_path("stress-ng"),
    },
];

/// Installs what `bench ingress` needs beyond [`run`].
pub fn for_bench() -> Result<()> {
    step::timed("setup of the bench", || {
        let missing: Vec<&Need> = BENCH_NEEDS.iter().filter(|need| !(need.is_there)()).collect();
        say(&missing);
        install_packages(&missing)?;
        still_missing(BENCH_NEEDS)
    })
}

fn say(missing: &[&Need]) {
    for need in missing {
        println!(
            "    missing: {} ({}): apt-get install {}",
            need.what,
            need.why,
            need.packages.join(" ")
        );
    }
}

/// Looks for each need and installs what is missing; with `dry_run` only says so.
pub fn run(dry_run: bool) -> Result<()> {
    step::timed("setup", || {
        let missing: Vec<&Need> = NEEDS.iter().filter(|need| !(need.is_there)()).collect();
        let linker = !bpf_linker();
        let deny = !cargo_deny();
        let clients = !tools::are_installed();
        if missing.is_empty() && !linker && !deny && !clients {
            println!("    nothing is missing");
            return Ok(());
        }
        say(&missing);
        if linker {
            println!(
                "    missing: bpf-linker {BPF_LINKER} (links the eBPF programs): cargo install, about 2 minutes"
            );
        }
        if deny {
            println!(
                "    missing: cargo-deny {CARGO_DENY} (lint: licences and bans): cargo install, a few minutes"
            );
        }
        if clients {
            println!("    missing: the SDK for Python, Ansible and dockerode (tests): about a minute");
        }
        if dry_run {
            println!("    nothing was changed (--dry-run)");
            return Ok(());
        }
        install_packages(&missing)?;
        if linker {
            install_linker()?;
        }
        if deny {
            install_deny()?;
        }
        if clients {
            step::timed("install the clients that tests run", tools::install)?;
        }
        still_missing(NEEDS)
    })
}

fn still_missing(needs: &[Need]) -> Result<()> {
    let left: Vec<&str> = needs
        .iter()
        .filter(|need| !(need.is_there)())
        .map(|need| need.what)
        .collect();
    if !left.is_empty() {
        bail!("still missing after the installation: {}", left.join(", "));
    }
    Ok(())
}

fn install_packages(missing: &[&Need]) -> Result<()> {
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|need| need.packages.iter().copied())
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    need_root("installing packages")?;
    if !in_path("apt-get") {
        bail!("this machine has no apt-get: install what is missing by hand (see above)");
    }
    step::quiet("refresh the package lists", apt().arg("update"))?;
    let _no_start = NoStart::begin()?;
    let brings_docker = packages.contains(&"docker.io") && !in_path("dockerd");
    step::quiet(
        "install packages",
        apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&packages),
    )?;
    if brings_docker && Path::new("/run/systemd/system").exists() {
        // Tests start their own; a daemon at the next boot is not what was asked for.
        let units = ["docker.service", "docker.socket", "containerd.service"];
        step::quiet(
            "leave the machine's dockerd off",
            Command::new("systemctl").args(["disable", "--now"]).args(units),
        )?;
    }
    Ok(())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["--quiet", "-o", "DPkg::Lock::Timeout=300"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// While it lives, packages that are installed start no daemon (invoke-rc.d(8)).
struct NoStart {
    made: bool,
}

impl NoStart {
    fn begin() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        if Path::new(POLICY).exists() {
            return Ok(Self { made: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("write {POLICY}"))?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(Self { made: true })
    }
}

impl Drop for NoStart {
    fn drop(&mut self) {
        if self.made
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("remove {POLICY} by hand: {error}");
        }
    }
}

fn install_linker() -> Result<()> {
    let arguments = ["install", "bpf-linker", "--version", BPF_LINKER, "--force"];
    let mut command = step::cargo(&arguments);
    command.args(["--no-default-features", "--features", "llvm-22"]);
    // Without these its build script takes the first llvm-config in PATH.
    command.env("LLVM_PREFIX", LLVM).env("LLVM_SYS_221_PREFIX", LLVM);
    step::quiet("build bpf-linker", &mut command)
}

fn install_deny() -> Result<()> {
    // A debug build: it runs for a second, and optimising it would take minutes.
    let arguments = [
        "install",
        "cargo-deny",
        "--version",
        CARGO_DENY,
        "--locked",
        "--debug",
        "--force",
    ];
    step::quiet("build cargo-deny", &mut step::cargo(&arguments))
}

fn bpf_compiler() -> bool {
    let debian =
        Path::new("/usr/lib/rustlib/bpfel-unknown-none/lib").is_dir() && Path::new("/usr/bin/rustc").exists();
    let sources = || {
        let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
        Some(
            Path::new(&sysroot)
                .join("lib/rustlib/src/rust/library/core")
                .is_dir(),
        )
    };
    debian || sources() == Some(true)
}

fn bpf_linker() -> bool {
    output(Command::new("bpf-linker").arg("--version")).is_some_and(|version| version.contains(BPF_LINKER))
}

fn cargo_deny() -> bool {
    output(Command::new("cargo-deny").arg("--version")).is_some_and(|version| version.contains(CARGO_DENY))
}

fn static_busybox() -> bool {
    // Of a dynamic program `ldd` prints libraries; of a static one it says so and fails.
    Path::new("/bin/busybox").exists() && output(Command::new("ldd").arg("/bin/busybox")).is_none()
}

fn has_venv(python: &str) -> bool {
    output(Command::new(python).args(["-c", "import venv, ensurepip"])).is_some()
}

fn installed(package: &str) -> bool {
    let status =
        output(Command::new("dpkg-query").args(["--show", "--showformat", "${db:Status-Status}", package]));
    status.as_deref() == Some("installed")
}

/// Looks where root's daemons lie as well, whatever PATH says.
fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .any(|directory| directory.join(program).is_file())
}

/// Standard output of a command that succeeded.
fn output(command: &mut Command) -> Option<String> {
    command::run(command, Duration::from_secs(30)).ok()?.ok().ok()
}
