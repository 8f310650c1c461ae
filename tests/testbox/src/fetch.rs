//! The test clients: many requests on a fixed schedule, one JSON line each.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use crate::{Arguments, json, resolve};

struct Target {
    address: SocketAddr,
    host: String,
    path: String,
}

/// `http://host[:port]/path`; a host that is no address is asked from the nameserver.
fn parse_url(url: &str) -> Result<Target, String> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| format!("{url}: only http:// is known"))?;
    let (host, path) = match rest.find('/') {
        Some(slash) => (&rest[..slash], &rest[slash..]),
        None => (rest, "/"),
    };
    let address = parse_address(if host.contains(':') {
        host.to_string()
    } else {
        format!("{host}:80")
    })?;
    Ok(Target {
        address,
        host: host.to_string(),
        path: path.to_string(),
    })
}

pub fn parse_address(host: String) -> Result<SocketAddr, String> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let (name, port) = host.rsplit_once(':').ok_or_else(|| format!("{host}: no port"))?;
    let port: u16 = port.parse().map_err(|error| format!("{host}: port: {error}"))?;
    let ip = *resolve::lookup(name, None, Duration::from_secs(5))?
        .first()
        .ok_or_else(|| format!("{name}: no address"))?;
    (ip, port)
        .to_socket_addrs()
        .map_err(|error| error.to_string())?
        .next()
        .ok_or_else(|| host.clone())
}

/// What a failed request died of, as one word tests can compare.
pub fn failure(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timeout",
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable",
        _ => "other",
    }
}

fn report(number: usize, started: Duration, took: Duration, result: Result<(u16, String), std::io::Error>) {
    let head = format!(
        "\"n\":{number},\"at_ms\":{},\"unix_ms\":{},\"ms\":{:.1}",
        started.as_millis(),
        unix_ms().saturating_sub(took.as_millis()),
        took.as_secs_f64() * 1e3
    );
    match result {
        Ok((status, body)) => {
            println!(
                "{{{head},\"ok\":{},\"status\":{status},\"body\":{}}}",
                status == 200,
                json::string(body.trim())
            );
        }
        Err(error) => println!(
            "{{{head},\"ok\":false,\"error\":\"{}\",\"detail\":{}}}",
            failure(&error),
            json::string(&error.to_string())
        ),
    }
}

/// So that what happened elsewhere on the machine can be told from what was sent before and after it.
pub fn unix_ms() -> u128 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis()
}

/// Requests that are sent one after the other end after so many failures.
const FAILURES: usize = 3;

/// Starts one request every interval, each on a thread of its own, so that a slow one delays none.
fn schedule<F>(arguments: &Arguments<'_>, request: F) -> Result<(), String>
where
    F: Fn(Duration) -> std::io::Result<(u16, String)> + Copy + Send + Sync,
{
    let count: usize = arguments.number("--count", 1);
    let interval = Duration::from_millis(arguments.number("--interval-ms", 0));
    let timeout = Duration::from_millis(arguments.number("--timeout-ms", 5000));
    let begin = Instant::now();
    let one = |number: usize| {
        let started = begin.elapsed();
        let result = request(timeout);
        let failed = result.is_err();
        report(number, started, begin.elapsed() - started, result);
        failed
    };
    if interval.is_zero() {
        // One after the other, a server that is gone would take the whole time-out each time.
        let mut failures = 0;
        for number in 0..count {
            failures += usize::from(one(number));
            if failures == FAILURES {
                break;
            }
        }
        return Ok(());
    }
    std::thread::scope(|scope| {
        for number in 0..count {
            let due = interval * u32::try_from(number).unwrap_or(u32::MAX);
            std::thread::sleep(due.saturating_sub(begin.elapsed()));
            scope.spawn(move || one(number));
        }
    });
    Ok(())
}

/// `get URL`: HTTP requests on connections of their own.
pub fn get(arguments: &Arguments<'_>) -> Result<(), String> {
    let target = &parse_url(arguments.first()?)?;
    schedule(arguments, |timeout| request(target, timeout))
}

fn request(target: &Target, timeout: Duration) -> std::io::Result<(u16, String)> {
    let deadline = Instant::now() + timeout;
    let mut connection = open(target, timeout)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        // A read timeout counts from each read; the deadline is the request's.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        connection.set_read_timeout(Some(left))?;
        match connection.read(&mut chunk)? {
            0 => break,
            length => answer.extend_from_slice(&chunk[..length]),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer
        .split_whitespace()
        .nth(1)
        .and_then(|text| text.parse().ok());
    let status = status.ok_or(ErrorKind::UnexpectedEof)?;
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_string())
        .unwrap_or_default();
    Ok((status, body))
}

/// A data plane may lead a socket elsewhere, but the other side keeps the name that was dialed.
fn is_called(found: SocketAddr, dialed: SocketAddr) -> std::io::Result<()> {
    if found == dialed {
        return Ok(());
    }
    Err(std::io::Error::other(format!(
        "{dialed} was dialed, the socket says {found}"
    )))
}

fn open(target: &Target, timeout: Duration) -> std::io::Result<TcpStream> {
    let mut connection = TcpStream::connect_timeout(&target.address, timeout)?;
    is_called(connection.peer_addr()?, target.address)?;
    connection.set_write_timeout(Some(timeout))?;
    write!(
        connection,
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        target.path, target.host
    )?;
    Ok(connection)
}

/// `stream URL --seconds N`: reads lines and says how long the longest silence was.
pub fn stream(arguments: &Arguments<'_>) -> Result<(), String> {
    let target = parse_url(arguments.first()?)?;
    let length = Duration::from_secs(arguments.number("--seconds", 5));
    let connection = open(&target, Duration::from_secs(5)).map_err(|error| format!("connect: {error}"))?;
    connection
        .set_read_timeout(Some(Duration::from_millis(100)))
        .map_err(|error| error.to_string())?;
    let begin = Instant::now();
    let (mut lines, mut gap, mut last, mut end) = (0u64, Duration::ZERO, Instant::now(), "time");
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    while begin.elapsed() < length {
        match reader.read_line(&mut line) {
            Ok(0) => {
                end = "closed";
                break;
            }
            Ok(_) => {
                gap = gap.max(last.elapsed());
                last = Instant::now();
                lines += 1;
                line.clear();
            }
            Err(error) if failure(&error) == "timeout" => {}
            Err(error) => {
                end = failure(&error);
                break;
            }
        }
    }
    gap = gap.max(last.elapsed());
    println!(
        "{{\"lines\":{lines},\"longest_gap_ms\":{},\"end\":\"{end}\"}}",
        gap.as_millis()
    );
    Ok(())
}

/// `udp ADDRESS:PORT`: datagrams from sockets of their own.
pub fn udp(arguments: &Arguments<'_>) -> Result<(), String> {
    let address = parse_address(arguments.first()?.to_string())?;
    schedule(arguments, |timeout| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(timeout))?;
        socket.connect(address)?;
        socket.send(b"who are you?")?;
        let mut buffer = [0; 2048];
        let (length, from) = socket.recv_from(&mut buffer)?;
        is_called(from, address)?;
        is_called(socket.peer_addr()?, address)?;
        Ok((200, String::from_utf8_lossy(&buffer[..length]).into_owned()))
    })
}
