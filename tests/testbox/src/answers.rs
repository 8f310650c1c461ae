//! `answers`: how long an address did not answer.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Arguments;
use crate::fetch::unix_ms;

/// Flows that are asked in turn. A task that dies takes some of them with it, but not all: what is
/// asked is whether the address answers.
const FLOWS: usize = 16;

/// How long an answer may come after the last question.
const DRAIN: Duration = Duration::from_secs(1);

/// What is shorter is the machine's breath.
const LEAST_GAP: Duration = Duration::from_millis(20);

/// Times between two answers.
#[derive(Default)]
struct Gaps {
    longest: Duration,
    longest_began: u128,
    /// All from [`LEAST_GAP`] on, as JSON: when it began (Unix time) and how long it was, in ms.
    listed: Vec<String>,
}

impl Gaps {
    fn note(&mut self, gap: Duration, began: u128) {
        if gap > self.longest {
            (self.longest, self.longest_began) = (gap, began);
        }
        if gap >= LEAST_GAP {
            self.listed.push(format!("[{began},{}]", gap.as_millis()));
        }
    }
}

/// Asks a test server by UDP each interval; prints the times between two answers.
pub fn answers(arguments: &Arguments<'_>) -> Result<(), String> {
    let address: IpAddr = arguments
        .first()?
        .parse()
        .map_err(|error| format!("address: {error}"))?;
    let port: u16 = arguments.number("--port", 80);
    let interval = Duration::from_millis(arguments.number("--interval-ms", 5)).max(Duration::from_millis(1));
    let length = Duration::from_secs(arguments.number("--seconds", 5));
    let mut sockets = Vec::new();
    for _ in 0..FLOWS {
        let socket = UdpSocket::bind("0.0.0.0:0")
            .and_then(|socket| socket.connect((address, port)).map(|()| socket))
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        sockets.push(socket.map_err(|error| format!("UDP to {address}:{port}: {error}"))?);
    }
    let (mut asked, mut answered, mut refused) = (0u32, 0u32, 0u32);
    let begin = Instant::now();
    let (mut last, mut gaps) = (begin, Gaps::default());
    loop {
        let now = begin.elapsed();
        if now >= length + DRAIN || (now >= length && answered >= asked) {
            break;
        }
        let due = interval * asked;
        if now < length && now >= due {
            // An error is what somebody said of an earlier question: no answer, and it counts as that.
            refused += u32::from(sockets[asked as usize % FLOWS].send(b"who are you?").is_err());
            asked += 1;
            continue;
        }
        wait(
            &sockets,
            if now < length {
                due - now
            } else {
                Duration::from_millis(20)
            },
        )?;
        let mut buffer = [0; 2048];
        for socket in &sockets {
            loop {
                match socket.recv(&mut buffer) {
                    Ok(_) => answered += 1,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {
                        refused += 1;
                        continue;
                    }
                }
                let silence = last.elapsed();
                last = Instant::now();
                gaps.note(silence, unix_ms().saturating_sub(silence.as_millis()));
            }
        }
    }
    // An address that answered no more would else show no gap at all. What was not asked is no silence.
    let silence = length.saturating_sub(last.duration_since(begin));
    gaps.note(silence, unix_ms().saturating_sub(last.elapsed().as_millis()));
    println!(
        "{{\"longest_gap_ms\":{},\"gap_began_unix_ms\":{},\"gaps\":[{}],\"asked\":{asked},\"answered\":{answered},\"refused\":{refused}}}",
        gaps.longest.as_millis(),
        gaps.longest_began,
        gaps.listed.join(",")
    );
    Ok(())
}

/// Until an answer is there or `pause` is over.
fn wait(sockets: &[UdpSocket], pause: Duration) -> Result<(), String> {
    let mut fds: Vec<PollFd<'_>> = sockets
        .iter()
        .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
        .collect();
    // Rounded up: a wait of nothing would turn the loop into a spin.
    let ms = u16::try_from(pause.as_millis()).unwrap_or(u16::MAX).max(1);
    match poll(&mut fds, PollTimeout::from(ms)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(format!("poll: {error}")),
    }
}
