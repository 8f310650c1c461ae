//! The one static program inside test nodes and test images: a node's first process, a server that
//! says whom it sees, and a client that says what it got.
//!
//! It is linked statically so that it runs in an image that holds nothing else.

mod answers;
mod arp;
mod cable;
mod connect;
mod datagrams;
mod fetch;
mod init;
mod json;
mod resolve;
mod serve;
mod session;

use std::process::ExitCode;

const USAGE: &str = "usage: skep-testbox <command>
  serve [--port N]            HTTP and UDP echo on N (default 80): who am I, whom do I see
  get URL [--count N] [--interval-ms N] [--timeout-ms N]
                              N requests, one started every interval; one JSON line each
  stream URL --seconds N      read lines for N seconds; prints the longest gap
  udp ADDRESS:PORT [--count N] [--timeout-ms N]
                              the same as get, one datagram each
  session ADDRESS:PORT --kind echo|idle|stream|udp [--count N] [--seconds N] [--interval-ms N] [--rate BYTES/S]
          [--source ADDRESS] [--grace-ms N]
                              N long-lived sessions; one JSON line when all are open, one for each at the end
  connect ADDRESS:PORT [--rate N] [--seconds N] [--timeout-ms N]
                              N connects a second, whatever becomes of the others; a JSON line for each that
                              failed, and a summary
  answers ADDRESS --port N [--interval-ms N] [--seconds N]
                              a datagram each interval; prints the longest time without an answer
  arp --address ADDRESS ... [--seconds N]
                              who answers ARP for the addresses, or announces one; a JSON line each time
  resolve NAME [--watch SECONDS] [--server ADDRESS] [--timeout-ms N]
                              IPv4 addresses of NAME, by the first nameserver of /etc/resolv.conf; with --watch
                              a line each time the answer is another
  names TABLE [--listen ADDRESS]
                              a name server on port 53; TABLE is 'name address name address ...'
  init ...                    first process of a test node
  cable --line PIPE --port NAME
                              sets a switch port down when the node behind it dies";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = arguments.split_first() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let rest = Arguments(rest);
    let result = match command.as_str() {
        "serve" => serve::serve(rest.number("--port", 80)),
        "get" => fetch::get(&rest),
        "stream" => fetch::stream(&rest),
        "udp" => fetch::udp(&rest),
        "session" => session::session(&rest),
        "connect" => connect::connect(&rest),
        "answers" => answers::answers(&rest),
        "arp" => arp::arp(&rest),
        "resolve" => resolve::resolve(&rest),
        "names" => resolve::serve(&rest),
        "init" => init::init(&rest),
        "cable" => cable::cable(&rest),
        _ => Err(USAGE.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// What was given after the command; few enough options to look them up by hand.
pub struct Arguments<'a>(&'a [String]);

impl Arguments<'_> {
    /// The value after `name`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name).into_iter().next()
    }

    /// Every value after an occurrence of `name`.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.0
            .windows(2)
            .filter(|pair| pair[0] == name)
            .map(|pair| pair[1].as_str())
            .collect()
    }

    /// A number after `name`, or `default` where it is missing or no number.
    pub fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> T {
        self.value(name)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    }

    /// The first argument, which has no name.
    pub fn first(&self) -> Result<&str, String> {
        self.0
            .first()
            .map(String::as_str)
            .ok_or_else(|| USAGE.to_string())
    }
}
