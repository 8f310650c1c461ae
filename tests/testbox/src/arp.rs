//! `arp`: who says that he has an address.
//!
//! Made for a machine whose kernel drops every ARP packet that comes in: it asks again and again then
//! (each `retrans_time_ms`), and each answer, as each announcement, is heard here.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};

use crate::Arguments;
use crate::fetch::unix_ms;

const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];

/// Asks for `--address` (which may be given several times) for `--seconds`, and prints a JSON line for
/// each answer or announcement.
pub fn arp(arguments: &Arguments<'_>) -> Result<(), String> {
    let addresses: Vec<Ipv4Addr> = arguments
        .values("--address")
        .iter()
        .map(|text| text.parse().map_err(|error| format!("--address {text}: {error}")))
        .collect::<Result<_, _>>()?;
    let length = Duration::from_secs(arguments.number("--seconds", 5));
    let packets = socket::socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_NONBLOCK,
        SockProtocol::EthAll,
    )
    .map_err(|error| format!("packet socket: {error}"))?;
    let reason = UdpSocket::bind("0.0.0.0:0").map_err(|error| format!("UDP: {error}"))?;
    println!("ready");
    let begin = Instant::now();
    let mut next = begin;
    while begin.elapsed() < length {
        if Instant::now() >= next {
            // The kernel asks because it has something to send; it gives up after a while.
            for address in &addresses {
                if let Err(error) = reason.send_to(b"hello", (*address, 9)) {
                    eprintln!("send to {address}: {error}");
                }
            }
            next += Duration::from_secs(1);
        }
        let mut fds = [PollFd::new(packets.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(50u16)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(format!("poll: {error}")),
        }
        let mut frame = [0; 2048];
        while let Ok(length) = socket::recv(packets.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            if let Some(said) = said(&frame[..length])
                && addresses.contains(&said.address)
            {
                println!(
                    "{{\"unix_ms\":{},\"address\":\"{}\",\"mac\":\"{}\",\"announcement\":{}}}",
                    unix_ms(),
                    said.address,
                    said.mac,
                    said.announcement
                );
            }
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Said {
    address: Ipv4Addr,
    mac: String,
    /// Nobody asked: a gratuitous request, or a reply to all.
    announcement: bool,
}

/// Reads an Ethernet frame with an ARP packet (RFC 826) in which somebody claims an address.
fn said(frame: &[u8]) -> Option<Said> {
    if frame.get(12..14)? != ETHERTYPE_ARP {
        return None;
    }
    let arp = frame.get(14..42)?;
    let reply = arp[7] == 2;
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(&arp[14..18]).ok()?);
    let gratuitous = arp[14..18] == arp[24..28];
    if !reply && !gratuitous {
        return None;
    }
    let mac: Vec<String> = arp[8..14].iter().map(|byte| format!("{byte:02x}")).collect();
    Some(Said {
        address,
        mac: mac.join(":"),
        announcement: gratuitous || frame[..6] == [0xff; 6],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: u8, operation: u8, target: u8) -> Vec<u8> {
        let mut frame = vec![to; 6];
        frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 10, 0, 0, 7, 0, 0, 0, 0, 0, 0, 10, 0, 0, target]);
        frame
    }

    #[test]
    fn answers_and_announcements_are_told_from_questions() {
        let claim = |announcement| {
            Some(Said {
                address: Ipv4Addr::new(10, 0, 0, 7),
                mac: "02:00:00:00:00:01".to_string(),
                announcement,
            })
        };
        assert_eq!(said(&frame(2, 2, 9)), claim(false));
        assert_eq!(said(&frame(0xff, 2, 7)), claim(true));
        assert_eq!(said(&frame(0xff, 1, 7)), claim(true));
        assert_eq!(said(&frame(0xff, 1, 9)), None);
        assert_eq!(said(&frame(2, 2, 9)[..41]), None);
    }
}
