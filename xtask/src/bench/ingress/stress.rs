//! The failure detector on a machine without a free core: marks that are wrong, and how late a right one is.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skep_tests::client::unix_ms;

use super::marks;
use super::measure::load_average;
use super::report::Row;
use super::swarm::{Swarm, Variant};
use crate::step;

/// Longer than a kill takes on a machine that has no core free.
const UNTIL_ENDED_S: u64 = 600;

/// stress-ng on all cores; it ends when this is dropped.
struct Stress(Child);

impl Stress {
    fn start(seconds: u64) -> Result<Self> {
        let mut command = Command::new("stress-ng");
        command.args(["--cpu", "0", "--timeout", &seconds.to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self(command.spawn().context("start stress-ng")?))
    }
}

impl Drop for Stress {
    fn drop(&mut self) {
        // SIGTERM, so that it ends its workers.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap_or(0));
        if !matches!(self.0.try_wait(), Ok(Some(_)))
            && let Err(error) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
        {
            eprintln!("end of stress-ng: {error}");
        }
        if let Err(error) = self.0.wait() {
            eprintln!("wait for stress-ng: {error}");
        }
    }
}

/// So many seconds without a kill, then so many kills; what is told of both.
pub fn run(swarm: &Swarm, seconds: u64, kills: usize) -> Result<(Value, Vec<Row>)> {
    let quiet = step::timed("stress-ng on all cores, no kill", || without_kill(swarm, seconds))?;
    let mut rows = Vec::new();
    for number in 1..=kills {
        let row = step::timed(
            &format!("stress-ng on all cores, kill {number} of {kills}"),
            || with_kill(swarm),
        )?;
        rows.push(row);
    }
    Ok((quiet, rows))
}

fn without_kill(swarm: &Swarm, seconds: u64) -> Result<Value> {
    swarm.whole()?;
    let node = swarm.cluster.node(1);
    let before = swarm.holder(node)?;
    let begin_ms = unix_ms();
    let stress = Stress::start(seconds)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let load = load_average()?;
    drop(stress);
    let wrong = marks::wrong(&swarm.cluster, None, begin_ms)?;
    let after = swarm.holder(node)?;
    println!(
        "    {seconds} s, load {load:.1}: {wrong} wrong marks; the holder {}",
        if before == after { "stayed" } else { "changed" }
    );
    Ok(json!({"seconds": seconds, "load": load, "wrong_marks": wrong, "holder_changed": before != after}))
}

fn with_kill(swarm: &Swarm) -> Result<Row> {
    let victim = swarm.prepare(Variant::Plain)?;
    let stress = Stress::start(UNTIL_ENDED_S)?;
    // Until the load is there; the kill itself takes a while to prepare as well.
    std::thread::sleep(Duration::from_secs(3));
    let kill = swarm.kill(Variant::Plain, victim);
    drop(stress);
    let kill = kill?;
    swarm.revive(victim)?;
    let mut row = Row::of_skep(&kill);
    row.name = "skep under stress-ng".to_string();
    Ok(row)
}
