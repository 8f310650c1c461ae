//! Pinned links by bpf(2): aya replaces the program of a tcx or XDP link, but not that of a cgroup's.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aya::programs::ProgramFd;

#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    #[error("open pinned link {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("replace the program of pinned link {path}: {source}")]
    Update { path: PathBuf, source: io::Error },
}

/// Numbers of `enum bpf_cmd` (linux/bpf.h).
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_UPDATE: libc::c_int = 29;

/// Head of `union bpf_attr` for BPF_OBJ_GET.
#[repr(C)]
#[derive(Default)]
struct Get {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The same for BPF_LINK_UPDATE.
#[repr(C)]
#[derive(Default)]
struct Update {
    link: u32,
    new_program: u32,
    flags: u32,
    old_program: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are a prefix of what the command reads, and outlive the call; the kernel takes the rest as zero.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Replaces the program of the link pinned at `path`, without a moment between. `false`: there is no such pin, or what it was attached
/// to is gone (ENOLINK).
///
/// # Errors
/// What the kernel refuses; the old program goes on.
pub fn update(path: &Path, program: &ProgramFd) -> Result<bool, UpdateError> {
    let failed = |source| UpdateError::Open {
        path: path.to_path_buf(),
        source,
    };
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    let mut get = Get {
        path: name.as_ptr() as u64,
        ..Get::default()
    };
    let link = match bpf(BPF_OBJ_GET, &mut get) {
        // SAFETY: the kernel just made this descriptor for us.
        Ok(number) => unsafe { OwnedFd::from_raw_fd(number as libc::c_int) },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    let mut update = Update {
        link: link.as_raw_fd() as u32,
        new_program: program.as_fd().as_raw_fd() as u32,
        ..Update::default()
    };
    match bpf(BPF_LINK_UPDATE, &mut update) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(source) => Err(UpdateError::Update {
            path: path.to_path_buf(),
            source,
        }),
    }
}
