//! Facts of this host: interfaces and their addresses, the address towards another host, names.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;

use nix::net::if_::InterfaceFlags;

use crate::core::address::Interface;

#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    #[error("list the network interfaces")]
    Interfaces(#[source] nix::Error),
    #[error("read the size of the memory from /proc/meminfo")]
    Memory(#[source] std::io::Error),
    #[error("find the address towards {remote}")]
    Route {
        remote: SocketAddr,
        source: std::io::Error,
    },
}

/// Interfaces that are up, loopback excluded.
///
/// # Errors
/// [`SystemError::Interfaces`].
pub fn interfaces() -> Result<Vec<Interface>, SystemError> {
    let mut found: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for entry in nix::ifaddrs::getifaddrs().map_err(SystemError::Interfaces)? {
        let up = entry.flags.contains(InterfaceFlags::IFF_UP);
        if !up || entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let addresses = found.entry(entry.interface_name).or_default();
        let Some(address) = entry.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            addresses.push(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            addresses.push(IpAddr::V6(v6.ip()));
        }
    }
    Ok(found
        .into_iter()
        .map(|(name, addresses)| Interface { name, addresses })
        .collect())
}

/// The address this host uses towards `remote`. Sends nothing: connecting a UDP socket only asks the routing table.
///
/// # Errors
/// [`SystemError::Route`].
pub fn address_towards(remote: SocketAddr) -> Result<IpAddr, SystemError> {
    let ask = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(remote)?;
        Ok(socket.local_addr()?.ip())
    };
    ask().map_err(|source| SystemError::Route { remote, source })
}

/// Bytes of memory of this host.
///
/// # Errors
/// [`SystemError::Memory`].
pub fn memory() -> Result<u64, SystemError> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(SystemError::Memory)?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map(|kilobytes| kilobytes * 1024)
        .ok_or_else(|| SystemError::Memory(std::io::ErrorKind::InvalidData.into()))
}

/// Docker is on this host: its socket, or its daemon that may start later.
pub fn docker_installed(socket: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/snap/bin"].map(Into::into);
    socket.exists()
        || std::env::split_paths(&path)
            .chain(usual)
            .any(|dir| dir.join("dockerd").exists())
}

/// The host's name.
///
/// # Errors
/// When procfs is not there.
pub fn hostname() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/hostname")?
        .trim()
        .to_string())
}
