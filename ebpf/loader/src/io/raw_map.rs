//! Pinned hash maps as bytes: whole tables in a few system calls (BPF_MAP_LOOKUP_BATCH, kernel 5.6, which aya does not
//! have), and tables of layouts this build has no types for.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{MapData, MapError, MapInfo};

use crate::io::whole;

/// Commands of bpf(2) (linux/bpf.h).
const LOOKUP: c_int = 1;
const UPDATE: c_int = 2;
const DELETE: c_int = 3;
const LOOKUP_BATCH: c_int = 24;
/// Only where there is no such entry yet (linux/bpf.h).
const NOEXIST: u64 = 1;
/// Entries a system call reads. The kernel answers ENOSPC when a bucket of the hash holds more.
const CHUNK: u32 = 4096;
const LARGEST_CHUNK: u32 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum RawMapError {
    #[error("open map {path}: {}", whole(source))]
    Open { path: PathBuf, source: MapError },
    #[error("map {path} has keys of {} and values of {} bytes, not {} and {}", found.0, found.1, needed.0, needed.1)]
    Size {
        path: PathBuf,
        found: (u32, u32),
        needed: (u32, u32),
    },
    #[error("{operation} map {path}: {source}")]
    Call {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("read the memory of map {path}: {source}")]
    Memory { path: PathBuf, source: io::Error },
}

/// An open map with keys and values of a known number of bytes.
#[derive(Debug)]
pub struct RawMap {
    path: PathBuf,
    data: MapData,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
}

/// What came of [`RawMap::add`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    Yes,
    /// There is an entry with this key already.
    Known,
    Full,
}

/// The part of `union bpf_attr` that calls about one entry use.
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part that batches use.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl RawMap {
    /// Opens a pinned map whose keys and values have these sizes.
    pub fn open(path: &Path, key_size: usize, value_size: usize) -> Result<Self, RawMapError> {
        let failed = |source| RawMapError::Open {
            path: path.to_path_buf(),
            source,
        };
        let data = MapData::from_pin(path).map_err(failed)?;
        let info: MapInfo = data.info().map_err(failed)?;
        let found = (info.key_size(), info.value_size());
        let needed = (key_size as u32, value_size as u32);
        if found != needed {
            return Err(RawMapError::Size {
                path: path.to_path_buf(),
                found,
                needed,
            });
        }
        Ok(Self {
            path: path.to_path_buf(),
            key_size,
            value_size,
            max_entries: info.max_entries(),
            data,
        })
    }

    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// Bytes of kernel memory that it has, by the kernel's own account.
    pub fn memory(&self) -> Result<u64, RawMapError> {
        let failed = |source| RawMapError::Memory {
            path: self.path.clone(),
            source,
        };
        let about =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.raw_fd())).map_err(failed)?;
        about
            .lines()
            .find_map(|line| line.strip_prefix("memlock:"))
            .and_then(|bytes| bytes.trim().parse().ok())
            .ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
    }

    /// Shows all entries to `each`, in no order. One that is written meanwhile may be seen or not.
    pub fn walk(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<(), RawMapError> {
        let mut room = CHUNK;
        let (mut keys, mut values) = self.buffers(room);
        let mut position: Option<u64> = None;
        loop {
            let mut next = 0_u64;
            let mut batch = Batch {
                in_batch: position.as_ref().map_or(0, |at| std::ptr::from_ref(at) as u64),
                out_batch: std::ptr::from_mut(&mut next) as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: room,
                map_fd: self.raw_fd() as u32,
                elem_flags: 0,
                flags: 0,
            };
            // SAFETY: the buffers hold `room` keys and values; both positions are 8 bytes, of which hash maps use 4.
            let result = unsafe { call(LOOKUP_BATCH, &mut batch) };
            let ended = match result {
                Ok(()) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < LARGEST_CHUNK => {
                    room *= 4;
                    (keys, values) = self.buffers(room);
                    continue;
                }
                Err(source) => return Err(self.failed("read", source)),
            };
            let count = batch.count as usize;
            let keys = keys.chunks_exact(self.key_size);
            let values = values.chunks_exact(self.value_size);
            keys.zip(values)
                .take(count)
                .for_each(|(key, value)| each(key, value));
            if ended {
                return Ok(());
            }
            position = Some(next);
        }
    }

    fn buffers(&self, entries: u32) -> (Vec<u8>, Vec<u8>) {
        let entries = entries as usize;
        (
            vec![0; entries * self.key_size],
            vec![0; entries * self.value_size],
        )
    }

    /// Reads one entry into `value`. `false`: there is none.
    pub fn get(&self, key: &[u8], value: &mut [u8]) -> Result<bool, RawMapError> {
        assert_eq!((key.len(), value.len()), (self.key_size, self.value_size));
        let mut element = self.element(key, value.as_mut_ptr() as u64, 0);
        // SAFETY: key and value have the sizes of the map's.
        self.found("read", unsafe { call(LOOKUP, &mut element) })
    }

    /// Writes an entry unless there is one with this key.
    pub fn add(&self, key: &[u8], value: &[u8]) -> Result<Added, RawMapError> {
        assert_eq!((key.len(), value.len()), (self.key_size, self.value_size));
        let mut element = self.element(key, value.as_ptr() as u64, NOEXIST);
        // SAFETY: key and value have the sizes of the map's.
        match unsafe { call(UPDATE, &mut element) } {
            Ok(()) => Ok(Added::Yes),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(Added::Known),
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => Ok(Added::Full),
            Err(source) => Err(self.failed("write", source)),
        }
    }

    /// Removes an entry. `false`: there is none.
    pub fn remove(&self, key: &[u8]) -> Result<bool, RawMapError> {
        assert_eq!(key.len(), self.key_size);
        let mut element = self.element(key, 0, 0);
        // SAFETY: the key has the size of the map's.
        self.found("remove from", unsafe { call(DELETE, &mut element) })
    }

    fn element(&self, key: &[u8], value: u64, flags: u64) -> Element {
        Element {
            map_fd: self.raw_fd() as u32,
            pad: 0,
            key: key.as_ptr() as u64,
            value,
            flags,
        }
    }

    fn found(&self, operation: &'static str, result: io::Result<()>) -> Result<bool, RawMapError> {
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(source) => Err(self.failed(operation, source)),
        }
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> RawMapError {
        RawMapError::Call {
            operation,
            path: self.path.clone(),
            source,
        }
    }

    fn raw_fd(&self) -> c_int {
        self.data.fd().as_fd().as_raw_fd()
    }
}

/// The bytes of a key or value.
pub fn bytes<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: plain old data without padding has as many initialised bytes as its size says.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A key or value from its bytes.
pub fn from_bytes<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>());
    // SAFETY: there are enough bytes, and any bytes are a valid value of plain old data.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

/// bpf(2).
///
/// # Safety
/// `attributes` must be the beginning of `union bpf_attr` for this command, with valid addresses.
unsafe fn call<T>(command: c_int, attributes: &mut T) -> io::Result<()> {
    // SAFETY: the caller's promise; the size is that of what is handed over.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>() as libc::c_uint,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
