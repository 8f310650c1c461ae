//! One session: what it asks, what it waits for, and what it met.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
use nix::sys::time::TimeVal;

use super::Options;
use crate::fetch::{failure, unix_ms};
use crate::json;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Echo,
    Idle,
    Stream,
    Udp,
}

impl Kind {
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Echo, Self::Idle, Self::Stream, Self::Udp]
            .into_iter()
            .find(|kind| kind.name() == word)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Idle => "idle",
            Self::Stream => "stream",
            Self::Udp => "udp",
        }
    }
}

enum Wire {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// A datagram that was not answered is followed by the next after this time.
const REPEAT: Duration = Duration::from_millis(100);

pub struct Flow {
    pub number: usize,
    /// Empty as long as all is well.
    pub error: &'static str,
    /// Host name of the server.
    pub task: String,
    pub opened_unix_ms: u128,
    /// 0 as long as it lives.
    pub ended_unix_ms: u128,
    /// The client's.
    pub port: u16,
    pub exchanges: u64,
    pub bytes: u64,
    /// The longest wait for an answer, or for the next bytes of a stream.
    pub gap: Duration,
    pub gap_began_unix_ms: u128,
    /// Answers of another server than the first, which only a flow of datagrams can have.
    pub changed: u64,
    kind: Kind,
    wire: Option<Wire>,
    /// Since when something is waited for.
    waiting: Option<Instant>,
    /// When the next question is due.
    due: Option<Instant>,
    interval: Duration,
    /// What came of a line that is not complete.
    partial: Vec<u8>,
    next_line: u64,
}

impl Flow {
    /// A session, ended with an error already if it could not be opened.
    pub fn open(number: usize, options: &Options) -> Self {
        let mut flow = Self {
            number,
            error: "",
            task: String::new(),
            opened_unix_ms: unix_ms(),
            ended_unix_ms: 0,
            port: 0,
            exchanges: 0,
            bytes: 0,
            gap: Duration::ZERO,
            gap_began_unix_ms: 0,
            changed: 0,
            kind: options.kind,
            wire: None,
            waiting: None,
            due: None,
            interval: options.interval,
            partial: Vec::new(),
            next_line: 0,
        };
        if let Err(error) = flow.open_wire(options) {
            flow.end(failure(&error));
        }
        flow
    }

    fn open_wire(&mut self, options: &Options) -> std::io::Result<()> {
        if self.kind == Kind::Udp {
            let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            let socket = UdpSocket::bind((options.source.unwrap_or(any), 0))?;
            socket.connect(options.target)?;
            socket.set_nonblocking(true)?;
            self.port = socket.local_addr()?.port();
            self.wire = Some(Wire::Udp(socket));
            return Ok(());
        }
        let mut stream = dial(options)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(options.grace))?;
        let first = match self.kind {
            Kind::Stream => format!("STREAM {}\n", options.rate),
            kind => format!("{}\n", kind.name().to_uppercase()),
        };
        stream.write_all(first.as_bytes())?;
        let mut hello = Vec::new();
        let mut byte = [0];
        // Byte by byte: what follows the hello belongs to the session.
        while !hello.ends_with(b"\n") {
            stream.read_exact(&mut byte)?;
            hello.push(byte[0]);
        }
        self.task = json::field(&String::from_utf8_lossy(&hello), "hostname").to_string();
        stream.set_nonblocking(true)?;
        self.port = stream.local_addr()?.port();
        self.wire = Some(Wire::Tcp(stream));
        Ok(())
    }

    /// From now on time without progress counts.
    pub fn begin(&mut self, now: Instant) {
        match self.kind {
            Kind::Echo | Kind::Udp => self.due = Some(now),
            Kind::Stream => self.waiting = Some(now),
            Kind::Idle => {}
        }
    }

    pub fn ended(&self) -> bool {
        self.ended_unix_ms != 0
    }

    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.wire.as_ref().map(|wire| match wire {
            Wire::Tcp(stream) => stream.as_fd(),
            Wire::Udp(socket) => socket.as_fd(),
        })
    }

    /// Sends what is due. `end`: since when only the last sign of life is waited for.
    pub fn act(&mut self, now: Instant, end: Option<Instant>, options: &Options) {
        if end.is_some_and(|end| now >= end + options.grace) {
            return self.end("timeout");
        }
        let last_word = end.is_some() && self.waiting.is_none();
        if last_word || self.due.is_some_and(|due| now >= due) {
            self.due = None;
            self.ask(now);
        }
    }

    fn ask(&mut self, now: Instant) {
        self.waiting.get_or_insert(now);
        let question = format!("{}\n", self.exchanges);
        let result = match &mut self.wire {
            Some(Wire::Tcp(stream)) => stream.write_all(question.as_bytes()),
            // A datagram that is refused may be answered the next time.
            Some(Wire::Udp(socket)) => socket.send(question.as_bytes()).map(drop).or(Ok(())),
            None => Ok(()),
        };
        if self.kind == Kind::Udp {
            self.due = Some(now + REPEAT);
        }
        if let Err(error) = result {
            self.end(failure(&error));
        }
    }

    /// Takes what came. `ending`: it was the last sign of life that was wanted.
    pub fn read(&mut self, buffer: &mut [u8], now: Instant, ending: bool) {
        let result = match &mut self.wire {
            Some(Wire::Tcp(stream)) => stream.read(buffer),
            Some(Wire::Udp(socket)) => match socket.recv(buffer) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return,
                result => result,
            },
            None => return,
        };
        match result {
            Ok(0) => self.end("closed"),
            Ok(length) => self.take(&buffer[..length], now, ending),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.end(failure(&error)),
        }
    }

    fn take(&mut self, bytes: &[u8], now: Instant, ending: bool) {
        self.bytes += bytes.len() as u64;
        let right = match self.kind {
            Kind::Udp => {
                let text = String::from_utf8_lossy(bytes);
                let task = json::field(&text, "hostname");
                if self.task.is_empty() {
                    self.task = task.to_string();
                }
                self.changed += u64::from(self.task != task);
                true
            }
            _ => self.take_lines(bytes),
        };
        if !right {
            return self.end("garbled");
        }
        if self.kind != Kind::Stream && !self.partial.is_empty() {
            return;
        }
        self.progress(now);
        self.exchanges += 1;
        match self.kind {
            Kind::Stream => self.waiting = Some(now),
            Kind::Idle => {}
            Kind::Echo | Kind::Udp => self.due = Some(now + self.interval),
        }
        if ending {
            self.finish();
        }
    }

    /// Whether all complete lines are the ones that had to come.
    fn take_lines(&mut self, bytes: &[u8]) -> bool {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let number = line.split_whitespace().next().and_then(|word| word.parse().ok());
            let expected = match self.kind {
                Kind::Stream => self.next_line,
                Kind::Echo => self.exchanges,
                Kind::Idle | Kind::Udp => continue,
            };
            if number != Some(expected) {
                return false;
            }
            self.next_line += 1;
        }
        true
    }

    fn progress(&mut self, now: Instant) {
        let Some(since) = self.waiting.take() else { return };
        let silence = now.saturating_duration_since(since);
        if silence > self.gap {
            self.gap = silence;
            self.gap_began_unix_ms = unix_ms().saturating_sub(silence.as_millis());
        }
    }

    fn finish(&mut self) {
        self.ended_unix_ms = unix_ms();
        self.wire = None;
    }

    fn end(&mut self, error: &'static str) {
        self.progress(Instant::now());
        self.error = error;
        self.finish();
    }
}

/// A connection from the wanted source; the time to make it is bounded.
fn dial(options: &Options) -> std::io::Result<TcpStream> {
    let Some(source) = options.source else {
        return TcpStream::connect_timeout(&options.target, options.grace);
    };
    let family = if source.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket: OwnedFd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::new(options.grace.as_secs().try_into().unwrap_or(i64::MAX), 0);
    socket::setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    let (from, to) = (SocketAddr::new(source, 0), options.target);
    let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
    socket::bind(raw, &SockaddrStorage::from(from))?;
    socket::connect(raw, &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(socket))
}
