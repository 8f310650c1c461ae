//! `session`: many long-lived sessions with a test server, and how each of them fared.
//!
//! One thread serves them all, so that a thousand idle ones cost nothing.

mod flow;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::fetch::parse_address;
use crate::{Arguments, json};
use flow::{Flow, Kind};

pub struct Options {
    pub target: SocketAddr,
    pub source: Option<IpAddr>,
    pub kind: Kind,
    /// Pause between an answer and the next question.
    pub interval: Duration,
    /// Bytes in a second that a stream is to send.
    pub rate: u64,
    /// How long an answer, or a connection, may take before it counts as lost.
    pub grace: Duration,
}

/// Opens `--count` sessions, says `{"event":"open",...}`, keeps them for `--seconds` (or until SIGTERM) and then prints
/// one line for each. A session is ok if it made progress once more after the end of that time.
pub fn session(arguments: &Arguments<'_>) -> Result<(), String> {
    let options = options(arguments)?;
    let count: usize = arguments.number("--count", 1);
    let length = Duration::from_secs(arguments.number("--seconds", 5));
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&stop))
        .map_err(|error| format!("SIGTERM: {error}"))?;
    let begin = Instant::now();
    let mut flows: Vec<Flow> = Vec::with_capacity(count);
    let mut failed = 0;
    while flows.len() < count && failed < FAILURES {
        let flow = Flow::open(flows.len(), &options);
        failed += usize::from(flow.ended());
        flows.push(flow);
    }
    println!(
        "{{\"event\":\"open\",\"opened\":{},\"failed\":{failed}}}",
        flows.len() - failed
    );
    // What came while the last ones were opened is no gap.
    flows.iter_mut().for_each(|flow| flow.begin(Instant::now()));
    keep(&mut flows, &options, begin + length, &stop)?;
    for flow in &flows {
        print(flow, options.kind);
    }
    Ok(())
}

/// So many sessions that cannot be opened are enough: each may take the whole grace.
const FAILURES: usize = 5;

fn options(arguments: &Arguments<'_>) -> Result<Options, String> {
    let kind = arguments.value("--kind").unwrap_or("echo");
    let source = arguments.value("--source").map(str::parse).transpose();
    Ok(Options {
        target: parse_address(arguments.first()?.to_string())?,
        source: source.map_err(|error| format!("--source: {error}"))?,
        kind: Kind::parse(kind).ok_or_else(|| format!("--kind {kind}: echo, idle, stream or udp"))?,
        interval: Duration::from_millis(arguments.number("--interval-ms", 0)),
        rate: arguments.number("--rate", 100_000),
        grace: Duration::from_millis(arguments.number("--grace-ms", 15_000)),
    })
}

fn keep(flows: &mut [Flow], options: &Options, mut end: Instant, stop: &AtomicBool) -> Result<(), String> {
    let mut ending = false;
    let mut buffer = vec![0; 65536];
    loop {
        let now = Instant::now();
        if !ending && (now >= end || stop.load(Ordering::Relaxed)) {
            (ending, end) = (true, now);
        }
        for flow in flows.iter_mut().filter(|flow| !flow.ended()) {
            flow.act(now, ending.then_some(end), options);
        }
        let living: Vec<&Flow> = flows.iter().filter(|flow| !flow.ended()).collect();
        if living.is_empty() {
            return Ok(());
        }
        let due = living.iter().filter_map(|flow| flow.due()).min();
        let pause = due.map_or(PAUSE, |due| due.saturating_duration_since(now).min(PAUSE));
        let ready = ready(&living, pause)?;
        let living = flows.iter_mut().filter(|flow| !flow.ended());
        for (flow, _) in living.zip(ready).filter(|(_, ready)| *ready) {
            flow.read(&mut buffer, Instant::now(), ending);
        }
    }
}

/// Which of them can be read, at once or within `pause`.
fn ready(flows: &[&Flow], pause: Duration) -> Result<Vec<bool>, String> {
    let mut fds: Vec<PollFd<'_>> = flows
        .iter()
        .filter_map(|flow| Some(PollFd::new(flow.fd()?, PollFlags::POLLIN)))
        .collect();
    // Rounded up: a wait of nothing would turn the loop into a spin.
    let ms = u16::try_from(pause.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
    match poll(&mut fds, PollTimeout::from(ms)) {
        Ok(_) | Err(Errno::EINTR) => Ok(fds.iter().map(|fd| fd.any().unwrap_or(false)).collect()),
        Err(error) => Err(format!("poll: {error}")),
    }
}

/// The longest wait: SIGTERM and the end of the time are noticed this late.
const PAUSE: Duration = Duration::from_millis(50);

fn print(flow: &Flow, kind: Kind) {
    println!(
        "{{\"kind\":\"{}\",\"n\":{},\"ok\":{},\"error\":\"{}\",\"task\":{},\"opened_unix_ms\":{},\"ended_unix_ms\":{},\"port\":{},\"exchanges\":{},\"bytes\":{},\"longest_gap_ms\":{},\"gap_began_unix_ms\":{},\"changed\":{},\"reconnects\":0}}",
        kind.name(),
        flow.number,
        flow.error.is_empty(),
        flow.error,
        json::string(&flow.task),
        flow.opened_unix_ms,
        flow.ended_unix_ms,
        flow.port,
        flow.exchanges,
        flow.bytes,
        flow.gap.as_millis(),
        flow.gap_began_unix_ms,
        flow.changed,
    );
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use super::*;
    use crate::serve;

    fn run(kind: Kind, target: SocketAddr, count: usize, source: Option<IpAddr>) -> Vec<Flow> {
        let options = Options {
            target,
            source,
            kind,
            interval: Duration::ZERO,
            rate: 200_000,
            grace: Duration::from_secs(5),
        };
        let mut flows: Vec<Flow> = (0..count).map(|number| Flow::open(number, &options)).collect();
        flows.iter_mut().for_each(|flow| flow.begin(Instant::now()));
        let end = Instant::now() + Duration::from_millis(300);
        keep(&mut flows, &options, end, &AtomicBool::new(false)).unwrap();
        flows
    }

    #[test]
    fn sessions_of_every_kind_live_and_tell_who_served_them() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let target = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(target).unwrap();
        std::thread::spawn(move || serve::answer_all(listener, socket));
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let source = Some(IpAddr::from([127, 0, 0, 9]));
        for (kind, source, least) in [
            (Kind::Echo, None, 5),
            (Kind::Idle, source, 1),
            (Kind::Stream, source, 5),
            (Kind::Udp, source, 5),
        ] {
            for flow in run(kind, target, 40, source) {
                assert_eq!(
                    (flow.error, flow.task.as_str()),
                    ("", name.trim()),
                    "{}",
                    kind.name()
                );
                assert!(flow.exchanges >= least, "{}: {}", kind.name(), flow.exchanges);
                assert!(flow.gap < Duration::from_secs(2) && flow.changed == 0);
            }
        }
    }

    #[test]
    fn a_server_that_goes_away_or_never_was_there_is_an_error() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let target = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            std::io::Write::write_all(&mut connection, b"{\"hostname\":\"x\"}\n").unwrap();
            // Closed with something unread: the kernel sends a reset.
            std::thread::sleep(Duration::from_millis(100));
        });
        let flows = run(Kind::Echo, target, 1, None);
        assert_eq!((flows[0].error, flows[0].task.as_str()), ("reset", "x"));
        assert!(flows[0].ended_unix_ms > 0 && flows[0].gap > Duration::ZERO);
        server.join().unwrap();
        assert_eq!(run(Kind::Idle, target, 1, None)[0].error, "refused");
    }
}
