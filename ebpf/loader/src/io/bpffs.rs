//! The file system that pins live in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    #[error("make pin directory {path}: {source}")]
    Make { path: PathBuf, source: io::Error },
    #[error("look at the file system of {path}: {source}")]
    Look { path: PathBuf, source: io::Error },
    #[error("mount a bpf file system on {path}: {source}")]
    Mount { path: PathBuf, source: io::Error },
    #[error("list pin directory {path}: {source}")]
    List { path: PathBuf, source: io::Error },
    #[error("remove pin {path}: {source}")]
    Remove { path: PathBuf, source: io::Error },
}

/// Makes `directory`, mounting a bpffs on it unless it lies in one already.
pub fn prepare(directory: &Path) -> Result<(), BpffsError> {
    let make = |path: &Path| {
        fs::create_dir_all(path).map_err(|source| BpffsError::Make {
            path: path.to_path_buf(),
            source,
        })
    };
    make(directory)?;
    let kind = statfs(directory)
        .map_err(|errno| BpffsError::Look {
            path: directory.to_path_buf(),
            source: errno.into(),
        })?
        .filesystem_type();
    if kind != BPF_FS_MAGIC {
        mount(
            Some("bpf"),
            directory,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .map_err(|errno| BpffsError::Mount {
            path: directory.to_path_buf(),
            source: errno.into(),
        })?;
    }
    Ok(())
}

/// Names of the pins in a directory; none if there is no such directory.
pub fn list(directory: &Path) -> Result<Vec<String>, BpffsError> {
    let failed = |source| BpffsError::List {
        path: directory.to_path_buf(),
        source,
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Directories beside this one that are named like it: a `v` and a number.
pub fn siblings(directory: &Path) -> Result<Vec<PathBuf>, BpffsError> {
    let Some(parent) = directory.parent() else {
        return Ok(Vec::new());
    };
    Ok(list(parent)?
        .into_iter()
        .map(|name| parent.join(name))
        .filter(|path| version(path).is_some() && path != directory)
        .collect())
}

/// The number in the name of a directory of pins.
pub fn version(directory: &Path) -> Option<u32> {
    let name = directory.file_name()?.to_str()?;
    name.strip_prefix('v')?.parse().ok()
}

/// Removes a pin; one that is gone already is fine.
pub fn remove(path: &Path) -> Result<(), BpffsError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(BpffsError::Remove {
            path: path.to_path_buf(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Removes a directory without pins in it; one that is gone already is fine.
pub fn remove_directory(path: &Path) -> Result<(), BpffsError> {
    match fs::remove_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(BpffsError::Remove {
            path: path.to_path_buf(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Removes all pins (and notes of filters) in a directory, then the directory. Goes on after failures and returns them.
pub fn clear(directory: &Path) -> Vec<BpffsError> {
    let names = match list(directory) {
        Ok(names) => names,
        Err(error) => return vec![error],
    };
    let remove_any = |path: PathBuf| {
        if path.is_dir() {
            remove_directory(&path)
        } else {
            remove(&path)
        }
    };
    let mut errors: Vec<BpffsError> = names
        .iter()
        .filter_map(|name| remove_any(directory.join(name)).err())
        .collect();
    errors.extend(remove_directory(directory).err());
    errors
}
