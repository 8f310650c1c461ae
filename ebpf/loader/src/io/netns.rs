//! The caller's network namespace as programs see it.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// asm-generic/socket.h, Linux 5.14; not in every libc.
const SO_NETNS_COOKIE: libc::c_int = 71;

#[derive(Debug, thiserror::Error)]
#[error("read the cookie of the network namespace: {0}")]
pub struct CookieError(#[source] io::Error);

/// A number that no other network namespace has until the machine starts anew.
pub fn cookie() -> Result<u64, CookieError> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(|errno| CookieError(errno.into()))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option writes at most `length` bytes to the value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &mut length,
        )
    };
    if result < 0 {
        Err(CookieError(io::Error::last_os_error()))
    } else {
        Ok(cookie)
    }
}
