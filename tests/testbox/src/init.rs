//! First process of a test node: gives the node its own view of the file system, then reaps
//! orphans until it is killed, which ends everything in the node.
//!
//! Its standard input is the life line: when the harness dies, however it dies, the pipe closes
//! and the node ends. A node that shall outlive the harness gets /dev/null and `--detached`.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::wait::wait;

use crate::Arguments;

/// Where the new /run and /sys are put together before they replace the old ones. The file system
/// under it is this mount namespace's own.
const STAGE: &str = "/mnt";

/// Runs as process 1 of new mount, network, UTS and PID namespaces.
pub fn init(arguments: &Arguments<'_>) -> Result<(), String> {
    // Read while /proc is still the machine's: the number by which the outside knows this process.
    let outside_pid = fs::read_link("/proc/self").map_err(|error| format!("/proc/self: {error}"))?;
    let name = arguments.value("--name").ok_or("init: --name is missing")?;
    // Open until this process dies, and in no other process.
    let _cable = arguments.value("--cable").map(hold_cable).transpose()?;
    attach("proc", "/proc", "proc")?;
    if let Some(run) = arguments.value("--run") {
        new_sys()?;
        new_run(Path::new(run))?;
    }
    for pair in arguments.values("--bind") {
        let (from, to) = pair
            .split_once(':')
            .ok_or_else(|| format!("--bind {pair}: no colon"))?;
        bind(from, to)?;
    }
    write("/proc/sys/kernel/hostname", name)?;
    // dockerd sets the FORWARD policy to DROP only where it finds forwarding off, as on most machines.
    write("/proc/sys/net/ipv4/ip_forward", "0")?;
    // A name server or port that nobody serves is refused every time, not once a second: programs that
    // ask several times at once would wait for their time-out.
    write("/proc/sys/net/ipv4/icmp_ratelimit", "0")?;
    if arguments.value("--detached").is_none() {
        std::thread::spawn(die_with_the_harness);
    }
    println!("{}", outside_pid.display());
    loop {
        match wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            // Nothing to wait for now; processes enter this namespace from outside and orphan others.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// The named pipe by whose end the switch learns of this node's death. Opened for both directions, since
/// the other side may not be there yet.
fn hold_cable(path: &str) -> Result<fs::File, String> {
    let both = fs::OpenOptions::new().read(true).write(true).open(path);
    both.map_err(|error| format!("{path}: {error}"))
}

fn die_with_the_harness() {
    let mut byte = [0];
    loop {
        match std::io::stdin().read(&mut byte) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => std::process::exit(0),
            Ok(_) => {}
        }
    }
}

fn write(path: &str, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("write {path}: {error}"))
}

fn attach(kind: &str, path: &str, name: &str) -> Result<(), String> {
    mount(Some(name), path, Some(kind), MsFlags::empty(), None::<&str>)
        .map_err(|error| format!("mount {kind} on {path}: {error}"))
}

fn bind(from: &str, to: &str) -> Result<(), String> {
    mount(
        Some(from),
        to,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(|error| format!("bind {from} to {to}: {error}"))
}

fn make_directory(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| format!("create {}: {error}", path.display()))
}

/// Puts what was built at the stage in its place; the stage itself is free again.
fn replace(path: &str) -> Result<(), String> {
    bind(STAGE, path)?;
    umount2(STAGE, MntFlags::MNT_DETACH).map_err(|error| format!("unmount {STAGE}: {error}"))
}

/// A /sys that shows this network namespace's interfaces, with the machine's cgroups and a bpffs of
/// the node's own.
fn new_sys() -> Result<(), String> {
    attach("sysfs", STAGE, "sysfs")?;
    bind("/sys/fs/cgroup", &format!("{STAGE}/fs/cgroup"))?;
    attach("bpf", &format!("{STAGE}/fs/bpf"), "bpf")?;
    replace("/sys")
}

/// An empty /run, with the node's directory of the run (seen from outside as well) as /run/skep.
fn new_run(run: &Path) -> Result<(), String> {
    attach("tmpfs", STAGE, "tmpfs")?;
    let stage = Path::new(STAGE);
    for directory in ["skep", "lock", "docker/plugins"] {
        make_directory(&stage.join(directory))?;
    }
    bind(&run.display().to_string(), &format!("{STAGE}/skep"))?;
    replace("/run")
}
