//! Programs on the sockets of the machine: links on the root of the cgroups, pinned, so that they outlive the agent and are
//! replaced in place. Each program tells by the cookie of its node's network namespace whether a socket is its own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::pin::PinError;
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, ProgramError};

use crate::io::bpffs::{self, BpffsError};
use crate::io::link::{self, UpdateError};
use crate::io::whole;

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    #[error(transparent)]
    Update(#[from] UpdateError),
    #[error("read /proc/thread-self/mountinfo: {0}")]
    Mounts(#[source] io::Error),
    #[error("no cgroup2 file system is mounted with its root")]
    NoMount,
    #[error("open cgroup {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    #[error("load program {program}: {}", whole(source))]
    Load {
        program: &'static str,
        source: ProgramError,
    },
    #[error("attach {program} to cgroup {path}: {}", whole(source))]
    Attach {
        program: &'static str,
        path: PathBuf,
        source: ProgramError,
    },
    #[error("keep the link of {program}: {}", whole(source))]
    Keep {
        program: &'static str,
        source: LinkError,
    },
    #[error("pin {path}: {}", whole(source))]
    Pin { path: PathBuf, source: PinError },
}

/// Programs that are of use only together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// What is dialed, and what the caller is told of it.
    Dial,
    /// What is bound.
    Guard,
}

impl Group {
    pub const ALL: [Group; 2] = [Group::Dial, Group::Guard];

    const fn programs(self) -> &'static [&'static str] {
        match self {
            // First what tells, so that nothing is dialed that would be told wrongly.
            Group::Dial => &[
                "socket_recvmsg4",
                "socket_recvmsg6",
                "socket_getpeername4",
                "socket_getpeername6",
                "socket_sendmsg4",
                "socket_connect6",
                "socket_connect4",
            ],
            Group::Guard => &["socket_bind4", "socket_bind6"],
        }
    }
}

/// Are programs of this node (or of an agent before this one) at work?
pub fn is_attached(pins: &Path, group: Group) -> bool {
    let mut programs = group.programs().iter();
    programs.any(|program| pin(pins, program).exists())
}

/// Puts the programs of a group into their pinned links, or makes and pins these. After an error some may be at work; the
/// next call goes on from there.
pub fn attach(object: &mut Ebpf, pins: &Path, group: Group) -> Result<(), CgroupError> {
    // All are verified before the first is at work.
    for program in group.programs() {
        let loaded = get(object, program)?;
        if loaded.fd().is_err() {
            let failed = |source| CgroupError::Load { program, source };
            loaded.load().map_err(failed)?;
        }
    }
    for program in group.programs() {
        attach_one(object, pins, program)?;
    }
    Ok(())
}

fn attach_one(object: &mut Ebpf, pins: &Path, program: &'static str) -> Result<(), CgroupError> {
    let path = pin(pins, program);
    let loaded = get(object, program)?;
    let failed = |source| CgroupError::Load { program, source };
    if link::update(&path, loaded.fd().map_err(failed)?)? {
        return Ok(());
    }
    bpffs::remove(&path)?;
    let root = root()?;
    let cgroup = File::open(&root).map_err(|source| CgroupError::Open {
        path: root.clone(),
        source,
    })?;
    let failed = |source| CgroupError::Attach {
        program,
        path: root.clone(),
        source,
    };
    // Links of other owners stay beside ours, whatever the mode: the kernel knows no other for links.
    let id = loaded.attach(cgroup, CgroupAttachMode::Single).map_err(failed)?;
    let link = loaded.take_link(id).map_err(failed)?;
    let link: FdLink = link
        .try_into()
        .map_err(|source| CgroupError::Keep { program, source })?;
    // The pin holds the link; ours may be closed.
    drop(
        link.pin(&path)
            .map_err(|source| CgroupError::Pin { path, source })?,
    );
    Ok(())
}

fn get<'a>(object: &'a mut Ebpf, program: &'static str) -> Result<&'a mut CgroupSockAddr, CgroupError> {
    let found = object.program_mut(program).ok_or(CgroupError::Missing(program))?;
    found
        .try_into()
        .map_err(|source| CgroupError::Load { program, source })
}

fn pin(pins: &Path, program: &str) -> PathBuf {
    pins.join(format!("link_{program}"))
}

/// Where the root of the cgroups is, wherever this machine mounts it.
fn root() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").map_err(CgroupError::Mounts)?;
    mounts.lines().find_map(cgroup2_root).ok_or(CgroupError::NoMount)
}

/// The mount point in a line of mountinfo (proc(5)), if it is a cgroup2 file system's root.
fn cgroup2_root(line: &str) -> Option<PathBuf> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point.replace("\\040", " ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_the_cgroups_is_found() {
        let hybrid = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw";
        assert_eq!(
            cgroup2_root(hybrid),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        for other in [
            "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu",
            "99 31 0:38 /docker/1 /mnt rw,relatime - cgroup2 cgroup2 rw",
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw",
        ] {
            assert_eq!(cgroup2_root(other), None);
        }
    }
}
