//! A node's cable: pulled in the moment the node's first process dies.
//!
//! A host that loses power falls silent. In a node whose first process is killed the kernel still ends one process after
//! the other, and their sockets say goodbye; so the switch port goes down first. The first process holds the life line (a
//! named pipe), whose end the kernel closes before it kills the others.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::Arguments;

/// `IFF_BROADCAST | IFF_MULTICAST`, without `IFF_UP` (linux/if.h).
const DOWN: &[u8] = b"0x1002";

/// Runs in the switch's network namespace until the life line ends, then sets the port down.
pub fn cable(arguments: &Arguments<'_>) -> Result<(), String> {
    let line = arguments.value("--line").ok_or("cable: --line is missing")?;
    let port = arguments.value("--port").ok_or("cable: --port is missing")?;
    let mut flags = port_flags(port)?;
    let mut line = fs::File::open(line).map_err(|error| format!("{line}: {error}"))?;
    println!("ready");
    let mut byte = [0];
    loop {
        match line.read(&mut byte) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    match flags.write_all(DOWN) {
        // The harness unplugged it already.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
        result => result.map_err(|error| format!("set {port} down: {error}")),
    }
}

/// The port's flags as the sysfs of this network namespace has them, open for writing.
fn port_flags(port: &str) -> Result<fs::File, String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("unshare: {error}"))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|error| format!("private mounts: {error}"))?;
    mount(Some("sysfs"), "/mnt", Some("sysfs"), MsFlags::empty(), none)
        .map_err(|error| format!("mount sysfs: {error}"))?;
    let path = format!("/mnt/class/net/{port}/flags");
    OpenOptions::new()
        .write(true)
        .open(&path)
        .map_err(|error| format!("{path}: {error}"))
}
