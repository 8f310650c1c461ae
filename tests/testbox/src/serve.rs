//! The test server: answers each request with its own name and the address it sees the client at.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::{datagrams, json};

/// Serves HTTP and UDP on `port` until the process is killed.
///
/// `GET /` answers once, `GET /stream` sends a line every 50 ms until the client goes away,
/// `GET /sleep/<ms>` answers after a pause.
///
/// A connection whose first line is `ECHO`, `IDLE` or `STREAM <bytes/s>` is a session: it is told who
/// serves it, then gets its lines back, gets an answer to each line, or is sent numbered lines for ever.
pub fn serve(port: u16) -> Result<(), String> {
    let listener =
        TcpListener::bind(("0.0.0.0", port)).map_err(|error| format!("listen on TCP {port}: {error}"))?;
    let socket = datagrams::bind(port)?;
    stop_when_told()?;
    println!("serving on port {port}");
    answer_all(listener, socket);
    Ok(())
}

/// Serves for as long as the process lives.
pub fn answer_all(listener: TcpListener, socket: UdpSocket) {
    std::thread::spawn(move || datagrams::answer(&socket, |client| who(client, None)));
    for connection in listener.incoming() {
        match connection {
            Ok(connection) => {
                std::thread::spawn(move || {
                    if let Err(error) = answer(connection) {
                        eprintln!("connection ended: {error}");
                    }
                });
            }
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

/// As process 1 of a container it would not get SIGTERM without a handler, and every stop would last
/// the whole grace period.
fn stop_when_told() -> Result<(), String> {
    let signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM]);
    let mut signals = signals.map_err(|error| format!("SIGTERM: {error}"))?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            println!("told to stop");
            std::process::exit(0);
        }
    });
    Ok(())
}

fn who(client: SocketAddr, local: Option<SocketAddr>) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let task = std::env::var("TASK").unwrap_or_default();
    format!(
        "{{\"hostname\":{},\"task\":{},\"client\":{},\"client_port\":{},\"local\":{}}}",
        json::string(host.trim()),
        json::string(&task),
        json::string(&client.ip().to_string()),
        client.port(),
        json::string(&local.map(|address| address.ip().to_string()).unwrap_or_default()),
    )
}

fn answer(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    let client = connection.peer_addr()?;
    let local = connection.local_addr().ok();
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut request = String::new();
    if reader.read_line(&mut request)? == 0 {
        // It only wanted to know whether it can connect.
        return Ok(());
    }
    let mut words = request.split_whitespace();
    let kind = words.next().unwrap_or_default();
    if ["ECHO", "IDLE", "STREAM"].contains(&kind) {
        connection.set_read_timeout(None)?;
        connection.set_nodelay(true)?;
        writeln!(connection, "{}", who(client, local))?;
        let rate = words.next().and_then(|word| word.parse().ok());
        return match kind {
            "ECHO" => answer_lines(connection, reader, |line| line.to_string()),
            "IDLE" => answer_lines(connection, reader, |_| "still here\n".to_string()),
            _ => numbered_lines(connection, rate.unwrap_or(DEFAULT_RATE)),
        };
    }
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let path = request.split_whitespace().nth(1).unwrap_or("/");
    if path == "/stream" {
        return stream(connection);
    }
    if let Some(pause_ms) = path.strip_prefix("/sleep/").and_then(|text| text.parse().ok()) {
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
    let body = who(client, local) + "\n";
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Bytes in a second, where a client names no number.
const DEFAULT_RATE: usize = 100_000;

fn answer_lines(
    mut connection: TcpStream,
    mut reader: BufReader<TcpStream>,
    answer: impl Fn(&str) -> String,
) -> std::io::Result<()> {
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        connection.write_all(answer(&line).as_bytes())?;
        line.clear();
    }
    Ok(())
}

/// A hundred lines a second, as long as it takes to send `rate` bytes by them.
fn numbered_lines(mut connection: TcpStream, rate: usize) -> std::io::Result<()> {
    let padding = "x".repeat((rate / 100).saturating_sub(16));
    for number in 0u64.. {
        connection.write_all(format!("{number} {padding}\n").as_bytes())?;
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn stream(mut connection: TcpStream) -> std::io::Result<()> {
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    )?;
    for number in 0u64.. {
        writeln!(connection, "{number}")?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
