//! `cargo xtask bench ingress`: holders of an address are killed, again and again, Skep's and keepalived's in
//! turn, and a client outside tells how long the address was silent and what was lost.

mod keepalived;
mod marks;
mod measure;
mod report;
mod stress;
mod swarm;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use self::keepalived::Keepalived;
use self::report::Row;
use self::swarm::{Swarm, Variant};
use super::statistics::remaining;
use crate::{build_ebpf, need_root, setup, step, test};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Kills in each variant, and of keepalived in each round of variants.
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// These variants instead of all.
    #[arg(long = "variant", value_enum)]
    variants: Vec<Variant>,
    /// A debug build of the agent: the figures say little.
    #[arg(long)]
    debug: bool,
    /// Seconds of stress-ng without a kill; 0 leaves out all that is measured under stress.
    #[arg(long, default_value_t = 60)]
    stress: u64,
    /// Kills under stress-ng.
    #[arg(long, default_value_t = 3)]
    stress_kills: usize,
    /// Leaves keepalived out.
    #[arg(long)]
    alone: bool,
}

/// Measures, prints a table, and writes target/bench/ingress.json, also after an error.
pub fn run(options: &Options) -> Result<()> {
    need_root("measuring")?;
    ensure!(options.kills > 0, "nothing to measure: --kills 0");
    setup::run(false)?;
    setup::for_bench()?;
    build_ebpf::run()?;
    let binary = test::build_agent(!options.debug)?;
    let swarm = step::timed("start three nodes of Skep", || Swarm::start(&binary))?;
    let keepalived = if options.alone {
        None
    } else {
        Some(step::timed("start three nodes of keepalived", Keepalived::start)?)
    };
    let mut rows = Vec::new();
    let mut stressed = Value::Null;
    let result = measure(options, &swarm, keepalived, &mut rows, &mut stressed);
    if options.debug {
        println!("\nThe agent is a debug build.");
    }
    println!("\n{}", report::table(&rows));
    println!("Times are p50 / p99 / max; load is the mean of the machine's load average over a minute.");
    println!("{}", report::write(&rows, &stressed)?.display());
    result
}

fn measure(
    options: &Options,
    swarm: &Swarm,
    mut keepalived: Option<Keepalived>,
    rows: &mut Vec<Row>,
    stressed: &mut Value,
) -> Result<()> {
    let variants = if options.variants.is_empty() {
        &Variant::ALL[..]
    } else {
        &options.variants
    };
    let total = options.kills * variants.len();
    let begin = Instant::now();
    for round in 0..options.kills {
        for (place, variant) in variants.iter().enumerate() {
            let victim = swarm.prepare(*variant)?;
            let kill = swarm.kill(*variant, victim)?;
            swarm.revive(victim)?;
            let mut new = vec![Row::of_skep(&kill)];
            // In turn, and as often as each variant.
            if let Some(keepalived) = keepalived.as_mut().filter(|_| place == 0) {
                new.extend(keepalived.kill_holders()?.iter().map(Row::of_keepalived));
            }
            let done = round * variants.len() + place + 1;
            say(done, total, begin.elapsed(), &new);
            rows.extend(new);
            report::write(rows, stressed)?;
        }
    }
    drop(keepalived);
    if options.stress > 0 {
        let (quiet, kills) = stress::run(swarm, options.stress, options.stress_kills)?;
        *stressed = quiet;
        rows.extend(kills);
    }
    Ok(())
}

fn say(done: usize, total: usize, elapsed: Duration, rows: &[Row]) {
    let rest = remaining(done, total, elapsed).unwrap_or_default();
    for row in rows {
        let detection = row
            .detection_ms
            .map_or_else(|| "-".to_string(), |time| format!("{time:.0} ms"));
        println!(
            "{done:>4} of {total}, {:>3} min left  {:<20} gap {:>5.0} ms  marked {detection:>7}  lost {} of {}  ended {}  failed connects {} of {}  load {:.1}",
            rest.as_secs().div_ceil(60),
            row.name,
            row.gap_ms,
            row.lost.len(),
            row.sessions,
            row.ended.len(),
            row.failed_connects,
            row.connects,
            row.load,
        );
    }
}
