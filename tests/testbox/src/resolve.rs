//! A DNS client and server of the few record types tests need (RFC 1035, A records, UDP).
//!
//! Written by hand because libc's resolver does not work in a static program and hides what the
//! server said.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use crate::fetch::unix_ms;
use crate::{Arguments, json};

/// `resolve NAME`: prints `{"name":..,"unix_ms":..,"addresses":[..]}`, once or at each change.
pub fn resolve(arguments: &Arguments<'_>) -> Result<(), String> {
    let name = arguments.first()?;
    let server = arguments
        .value("--server")
        .map(|text| text.parse::<IpAddr>())
        .transpose();
    let server = server.map_err(|error| format!("--server: {error}"))?;
    let timeout = Duration::from_millis(arguments.number("--timeout-ms", 5000));
    let Some(seconds) = arguments
        .value("--watch")
        .and_then(|text| text.parse::<u64>().ok())
    else {
        print(name, &lookup(name, server, timeout)?);
        return Ok(());
    };
    let begin = Instant::now();
    let mut last = None;
    while begin.elapsed() < Duration::from_secs(seconds) {
        // A question that was not answered says nothing; "no such name" is not asked for here.
        let Ok(mut now) = lookup(name, server, timeout) else {
            continue;
        };
        now.sort();
        if last.as_ref() != Some(&now) {
            print(name, &now);
            last = Some(now);
        }
        std::thread::sleep(WATCH_PAUSE);
    }
    Ok(())
}

const WATCH_PAUSE: Duration = Duration::from_millis(20);

fn print(name: &str, addresses: &[Ipv4Addr]) {
    let list: Vec<String> = addresses
        .iter()
        .map(|address| json::string(&address.to_string()))
        .collect();
    println!(
        "{{\"name\":{},\"unix_ms\":{},\"addresses\":[{}]}}",
        json::string(name),
        unix_ms(),
        list.join(",")
    );
}

fn nameserver() -> Result<IpAddr, String> {
    let text =
        std::fs::read_to_string("/etc/resolv.conf").map_err(|error| format!("/etc/resolv.conf: {error}"))?;
    text.lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .find_map(|rest| rest.trim().parse().ok())
        .ok_or_else(|| "no nameserver in /etc/resolv.conf".to_string())
}

/// The IPv4 addresses of `name`; an answer code other than 0 is an error that names it.
pub fn lookup(name: &str, server: Option<IpAddr>, timeout: Duration) -> Result<Vec<Ipv4Addr>, String> {
    let server = server.map_or_else(nameserver, Ok)?;
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(|error| format!("UDP socket: {error}"))?;
    socket
        .set_read_timeout(Some(timeout))
        .map_err(|error| error.to_string())?;
    socket
        .connect((server, 53))
        .map_err(|error| format!("{server}: {error}"))?;
    let id = std::process::id().to_be_bytes();
    let query = query(name, [id[2], id[3]])?;
    socket
        .send(&query)
        .map_err(|error| format!("ask {server}: {error}"))?;
    let mut buffer = [0; 4096];
    let length = socket
        .recv(&mut buffer)
        .map_err(|error| format!("no answer of {server}: {error}"))?;
    parse(&buffer[..length]).map_err(|reason| format!("{name}: {reason}"))
}

fn query(name: &str, id: [u8; 2]) -> Result<Vec<u8>, String> {
    let mut message = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..64).contains(length));
        message.push(length.ok_or_else(|| format!("{name}: bad label"))?);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(message)
}

fn parse(message: &[u8]) -> Result<Vec<Ipv4Addr>, String> {
    read_answers(message).ok_or_else(|| "malformed answer".to_string())?
}

fn read_answers(message: &[u8]) -> Option<Result<Vec<Ipv4Addr>, String>> {
    match message.get(3)? & 15 {
        0 => {}
        3 => return Some(Err("NXDOMAIN".to_string())),
        code => return Some(Err(format!("answer code {code}"))),
    }
    let answers = u16::from_be_bytes([*message.get(6)?, *message.get(7)?]);
    let mut at = skip_name(message, 12)? + 4;
    let mut addresses = Vec::new();
    for _ in 0..answers {
        at = skip_name(message, at)?;
        let record = message.get(at..at + 10)?;
        let length = usize::from(u16::from_be_bytes([record[8], record[9]]));
        let data = message.get(at + 10..at + 10 + length)?;
        if record[..2] == [0, 1] {
            addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?));
        }
        at += 10 + length;
    }
    Some(Ok(addresses))
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length >= 192 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

/// `names 'a.example 203.0.113.1 b.example 203.0.113.2'`: answers those names, NXDOMAIN to others.
pub fn serve(arguments: &Arguments<'_>) -> Result<(), String> {
    let words: Vec<&str> = arguments.first()?.split_whitespace().collect();
    let mut table = Vec::new();
    for pair in words.chunks_exact(2) {
        let address: Ipv4Addr = pair[1].parse().map_err(|error| format!("{}: {error}", pair[1]))?;
        table.push((query(pair[0], [0, 0])?[12..].to_vec(), address));
    }
    // Bound to one address, or an answer may leave with another one of the machine.
    let address = arguments.value("--listen").unwrap_or("0.0.0.0");
    let socket = UdpSocket::bind((address, 53)).map_err(|error| format!("bind UDP {address}:53: {error}"))?;
    let mut buffer = [0; 4096];
    loop {
        let (length, client) = socket
            .recv_from(&mut buffer)
            .map_err(|error| format!("receive: {error}"))?;
        let Some(question) = buffer[..length].get(12..).and_then(|rest| {
            let end = skip_name(rest, 0)? + 4;
            rest.get(..end)
        }) else {
            continue;
        };
        let found = table.iter().find(|(name, _)| name.eq_ignore_ascii_case(question));
        let code = if found.is_some() { 0 } else { 3 };
        let mut answer = vec![
            buffer[0],
            buffer[1],
            0x81,
            0x80 | code,
            0,
            1,
            0,
            u8::from(found.is_some()),
            0,
            0,
            0,
            0,
        ];
        answer.extend_from_slice(question);
        if let Some((_, address)) = found {
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
            answer.extend_from_slice(&address.octets());
        }
        socket
            .send_to(&answer, client)
            .map_err(|error| format!("answer to {client}: {error}"))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_server_is_read_by_the_client() {
        let question = query("web.example", [1, 2]).unwrap();
        let mut answer = vec![1, 2, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        answer.extend_from_slice(&question[12..]);
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 2]);
        assert_eq!(parse(&answer), Ok(vec![Ipv4Addr::new(10, 0, 0, 2)]));
    }

    #[test]
    fn a_refusal_and_a_cut_message_are_errors() {
        assert_eq!(
            parse(&[0, 0, 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]),
            Err("NXDOMAIN".to_string())
        );
        assert!(parse(&[0, 0, 0x81, 0x80, 0, 1, 0, 1]).is_err());
        assert!(query("a..b", [0, 0]).is_err());
    }
}
