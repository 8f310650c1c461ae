//! What a container's own kernel tables say of its TCP connections, in the words of proc(5), `/proc/[pid]/net/tcp`.

use std::collections::BTreeSet;

/// `st` of a socket, include/net/tcp_states.h.
const ESTABLISHED: u8 = 1;
const SYN_RECV: u8 = 3;
const FIN_WAIT1: u8 = 4;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;

/// The sockets of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Ports that somebody outside of the container can connect to.
    pub listening: BTreeSet<u16>,
    /// Connections that came in and are not over: something is still to be said in them, or acknowledged.
    pub served: usize,
}

/// Reads both tables; lines that are none are left out.
pub fn read(tcp: &str, tcp6: &str) -> Sockets {
    let lines: Vec<Line> = [tcp, tcp6]
        .iter()
        .flat_map(|t| t.lines())
        .filter_map(line)
        .collect();
    let listening = lines.iter().filter(|l| l.state == LISTEN);
    let all: BTreeSet<u16> = listening.clone().map(|l| l.port).collect();
    let lives = [ESTABLISHED, SYN_RECV, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING];
    let served = lines
        .iter()
        .filter(|l| !l.loopback && lives.contains(&l.state) && all.contains(&l.port));
    Sockets {
        served: served.count(),
        listening: listening.filter(|l| !l.loopback).map(|l| l.port).collect(),
    }
}

struct Line {
    port: u16,
    state: u8,
    loopback: bool,
}

/// `sl local_address rem_address st ...`: addresses are words of the machine's byte order in hexadecimal, ports are not.
fn line(text: &str) -> Option<Line> {
    let mut words = text.split_ascii_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    let state = words.nth(1)?;
    Some(Line {
        port: u16::from_str_radix(port, 16).ok()?,
        state: u8::from_str_radix(state, 16).ok()?,
        loopback: is_loopback(address)?,
    })
}

/// 127.0.0.0/8, ::1 or ::ffff:127.0.0.0/104.
fn is_loopback(address: &str) -> Option<bool> {
    let words: Option<Vec<u32>> = (0..address.len() / 8)
        .map(|n| u32::from_str_radix(address.get(n * 8..n * 8 + 8)?, 16).ok())
        .collect();
    let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    match bytes.as_slice() {
        [first, _, _, _] => Some(*first == 127),
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, first, ..] => Some(*first == 127),
        [head @ .., 1] if head.len() == 15 => Some(head.iter().all(|b| *b == 0)),
        bytes => (bytes.len() == 16).then_some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6 prints it on a little-endian machine.
    const TCP: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0B00007F:9C40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0300000A:0050 0200000A:C001 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
   3: 0300000A:0050 0200000A:C002 08 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
   4: 0300000A:0050 0200000A:C003 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0
   5: 0300000A:0050 0200000A:C004 05 00000000:00000000 03:00000000 00000000     0        0 0 3 0
   6: 0300000A:D431 0500000A:1538 01 00000000:00000000 00:00000000 00000000     0        0 5 1 0 20 4 30 10 -1
   7: 0100007F:0050 0100007F:D002 01 00000000:00000000 00:00000000 00000000     0        0 6 1 0 20 4 30 10 -1
";
    const TCP6: &str = "  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0 0 0 0 0 7
   1: 0000000000000000FFFF00000300000A:1F90 0000000000000000FFFF00000200000A:C005 03 0 0 0 0 0 8
   2: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:C006 01 0 0 0 0 0 9
   3: 00000000000000000000000001000000:2328 00000000000000000000000000000000:0000 0A 0 0 0 0 0 10
";

    #[test]
    #[cfg(target_endian = "little")]
    fn what_came_in_and_is_not_over_is_served() {
        let sockets = read(TCP, TCP6);
        assert_eq!(sockets.listening, BTreeSet::from([80, 8080]));
        assert_eq!(
            sockets.served, 3,
            "neither what is over, nor what the task opened itself, nor its talk with itself"
        );
    }

    #[test]
    fn nonsense_is_nothing() {
        assert_eq!(read("", "a b c\n 1: zz:50 x 0A\n"), Sockets::default());
    }
}
