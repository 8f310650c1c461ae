//! Kernel settings of single interfaces and of the namespace, under /proc/sys/net.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    #[error("write {value} to {path}: {source}")]
    Write {
        path: PathBuf,
        value: &'static str,
        source: io::Error,
    },
    #[error("read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
}

/// Settings of every interface whose packets come from or go to containers.
///
/// # Errors
/// When a setting cannot be written.
pub fn container_facing(interface: &str) -> Result<(), SysctlError> {
    // The kernel takes the larger of `all` and the interface's own value, and 2 (loose) is larger than 1 (strict): a
    // container on two networks sends by either.
    write_ipv4(interface, "rp_filter", "2")?;
    write_ipv4(interface, "send_redirects", "0")?;
    write_ipv4(interface, "forwarding", "1")?;
    let ipv6 = Path::new("/proc/sys/net/ipv6/conf")
        .join(interface)
        .join("disable_ipv6");
    if ipv6.exists() {
        write(ipv6, "1")?;
    }
    Ok(())
}

/// Lets 127.0.0.0/8 be the source of packets that leave by the interface: connections to a published port on
/// localhost get the node's address only after routing.
///
/// # Errors
/// When the setting cannot be written.
pub fn route_localnet(interface: &str) -> Result<(), SysctlError> {
    write_ipv4(interface, "route_localnet", "1")
}

/// Whether the node forwards packets at all.
///
/// # Errors
/// When the setting cannot be read.
pub fn is_forwarding() -> Result<bool, SysctlError> {
    let path = PathBuf::from("/proc/sys/net/ipv4/ip_forward");
    let value = fs::read_to_string(&path).map_err(|source| SysctlError::Read { path, source })?;
    Ok(value.trim() == "1")
}

/// Makes the node forward packets. Only to be called once dockerd has its rules in place: dockerd sets the FORWARD
/// policy to DROP only where it finds forwarding off.
///
/// # Errors
/// When the setting cannot be written.
pub fn forward() -> Result<(), SysctlError> {
    write(PathBuf::from("/proc/sys/net/ipv4/ip_forward"), "1")
}

fn write_ipv4(interface: &str, name: &str, value: &'static str) -> Result<(), SysctlError> {
    write(
        Path::new("/proc/sys/net/ipv4/conf").join(interface).join(name),
        value,
    )
}

fn write(path: PathBuf, value: &'static str) -> Result<(), SysctlError> {
    fs::write(&path, value).map_err(|source| SysctlError::Write { path, value, source })
}
