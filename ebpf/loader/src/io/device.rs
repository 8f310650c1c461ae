//! What the loader needs to know of network interfaces, in the caller's network namespace.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("find the name of interface {ifindex}: {source}")]
    Name { ifindex: u32, source: io::Error },
    #[error("open a socket to ask about interfaces: {0}")]
    Socket(#[source] io::Error),
    #[error("read the MAC address of interface {name}: {source}")]
    Mac { name: String, source: io::Error },
}

/// Name of an interface.
pub fn name(ifindex: u32) -> Result<String, DeviceError> {
    let mut buffer = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that if_indextoname(3) asks for.
    let found = unsafe { libc::if_indextoname(ifindex, buffer.as_mut_ptr().cast()) };
    if found.is_null() {
        return Err(DeviceError::Name {
            ifindex,
            source: io::Error::last_os_error(),
        });
    }
    let name = CStr::from_bytes_until_nul(&buffer).map_err(|_| DeviceError::Name {
        ifindex,
        source: io::ErrorKind::InvalidData.into(),
    })?;
    Ok(name.to_string_lossy().into_owned())
}

/// MAC address of an interface.
pub fn mac(ifindex: u32) -> Result<[u8; 6], DeviceError> {
    let name = name(ifindex)?;
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(|errno| DeviceError::Socket(errno.into()))?;
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCGIFHWADDR (netdevice(7)) reads the name and writes the address.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &mut request) };
    if result < 0 {
        return Err(DeviceError::Mac {
            name,
            source: io::Error::last_os_error(),
        });
    }
    // SAFETY: the call above succeeded, so the hardware address is the active member.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mut mac = [0_u8; 6];
    for (to, from) in mac.iter_mut().zip(data) {
        *to = from as u8;
    }
    Ok(mac)
}
