//! `connect`: connections opened on a fixed schedule, whatever becomes of the others.

use std::net::TcpStream;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::fetch::{failure, parse_address, unix_ms};
use crate::{Arguments, json};

/// A connect that took longer was late: its first SYN was lost (TCP repeats it after 1 s).
const LATE: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Summary {
    failed: usize,
    late: usize,
    slowest: Duration,
    slowest_unix_ms: u128,
}

/// Prints a JSON line for each connect that failed when it fails, and a summary at the end.
pub fn connect(arguments: &Arguments<'_>) -> Result<(), String> {
    let address = parse_address(arguments.first()?.to_string())?;
    let rate: u32 = arguments.number("--rate", 200).max(1);
    let seconds: u32 = arguments.number("--seconds", 5);
    let timeout = Duration::from_millis(arguments.number("--timeout-ms", 5000));
    let summary = &Mutex::new(Summary::default());
    let begin = Instant::now();
    let count = rate * seconds;
    std::thread::scope(|scope| {
        for number in 0..count {
            let due = Duration::from_secs(1) * number / rate;
            std::thread::sleep(due.saturating_sub(begin.elapsed()));
            scope.spawn(move || {
                let (started, started_unix_ms) = (Instant::now(), unix_ms());
                let result = TcpStream::connect_timeout(&address, timeout);
                note(summary, number, started_unix_ms, started.elapsed(), result.err());
            });
        }
    });
    let summary = summary.lock().map_err(|error| error.to_string())?;
    println!(
        "{{\"connects\":{count},\"failed\":{},\"slowest_ms\":{:.1},\"slowest_unix_ms\":{},\"late\":{}}}",
        summary.failed,
        summary.slowest.as_secs_f64() * 1e3,
        summary.slowest_unix_ms,
        summary.late,
    );
    Ok(())
}

fn note(summary: &Mutex<Summary>, number: u32, unix_ms: u128, took: Duration, error: Option<std::io::Error>) {
    if let Some(error) = &error {
        println!(
            "{{\"n\":{number},\"unix_ms\":{unix_ms},\"ms\":{:.1},\"error\":\"{}\",\"detail\":{}}}",
            took.as_secs_f64() * 1e3,
            failure(error),
            json::string(&error.to_string()),
        );
    }
    if let Ok(mut summary) = summary.lock() {
        summary.failed += usize::from(error.is_some());
        summary.late += usize::from(error.is_none() && took > LATE);
        if took > summary.slowest {
            (summary.slowest, summary.slowest_unix_ms) = (took, unix_ms);
        }
    }
}
