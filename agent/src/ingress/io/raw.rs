//! Raw ARP packets.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{LinkAddr, MsgFlags, recvfrom, sendto};
use socket2::{Domain, Protocol, Socket, Type};

use crate::ingress::core::announce::ETHERTYPE;

#[derive(Debug, thiserror::Error)]
pub enum RawError {
    #[error("open a raw socket for ARP: {0}")]
    Open(#[source] io::Error),
    #[error("send an ARP packet on interface {interface}: {source}")]
    Send { interface: usize, source: nix::Error },
    #[error("receive ARP packets: {0}")]
    Receive(#[source] nix::Error),
    #[error("list the interfaces: {0}")]
    Devices(#[source] nix::Error),
}

/// A packet socket that never blocks.
#[derive(Debug)]
pub struct RawSocket(Socket);

impl RawSocket {
    /// One that only sends.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn sender() -> Result<Self, RawError> {
        Self::open(None)
    }

    /// One that hears the ARP packets of all interfaces as well.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn receiver() -> Result<Self, RawError> {
        Self::open(Some(Protocol::from(i32::from(ETHERTYPE.to_be()))))
    }

    fn open(protocol: Option<Protocol>) -> Result<Self, RawError> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, protocol).map_err(RawError::Open)?;
        socket.set_nonblocking(true).map_err(RawError::Open)?;
        Ok(Self(socket))
    }

    /// # Errors
    /// What the kernel refuses; a full queue is no reason to wait.
    pub fn send(&self, device: &LinkAddr, frame: &[u8]) -> Result<(), RawError> {
        match sendto(self.0.as_raw_fd(), frame, device, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => Ok(()),
            Err(source) => Err(RawError::Send {
                interface: device.ifindex(),
                source,
            }),
        }
    }

    /// The next frame's length and the index of its interface; `None`: there is none now.
    ///
    /// # Errors
    /// What the socket says.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<(usize, u32)>, RawError> {
        match recvfrom::<LinkAddr>(self.0.as_raw_fd(), buffer) {
            Ok((length, from)) => {
                let interface = from.and_then(|from| u32::try_from(from.ifindex()).ok());
                Ok(Some((length, interface.unwrap_or(0))))
            }
            Err(nix::Error::EAGAIN) => Ok(None),
            Err(error) => Err(RawError::Receive(error)),
        }
    }
}

/// The link-layer address of every interface, by index: what a raw packet is sent to.
///
/// # Errors
/// When they cannot be listed.
pub fn devices() -> Result<BTreeMap<u32, LinkAddr>, RawError> {
    let entries = nix::ifaddrs::getifaddrs().map_err(RawError::Devices)?;
    let devices = entries.filter_map(|entry| {
        let device = *entry.address.as_ref()?.as_link_addr()?;
        Some((u32::try_from(device.ifindex()).ok()?, device))
    });
    Ok(devices.collect())
}
