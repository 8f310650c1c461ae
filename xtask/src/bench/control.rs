//! `cargo xtask bench control`: what the control plane takes for what users do, Docker's own Swarm mode and Skep in turn on
//! clusters of the same kind, and the same containers by `docker run` as the floor.

mod api;
mod faults;
mod figures;
mod report;
mod side;
mod work;

use std::time::Duration;

use anyhow::{Result, ensure};

use self::figures::{Figure, Measure};
use self::report::Row;
use self::side::Side;
use crate::{build_ebpf, need_root, setup, step, test};

/// The longest anything may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(180);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often everything is measured, on each side in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// These figures instead of all; any part of a name.
    #[arg(long = "only")]
    only: Vec<String>,
    /// A debug build of the agent: the figures say little.
    #[arg(long)]
    debug: bool,
}

/// Measures, prints a table, and writes target/bench/control.json, also after an error.
pub fn run(options: &Options) -> Result<()> {
    need_root("measuring")?;
    let wanted = |figure: &&Figure| {
        options.only.is_empty() || options.only.iter().any(|part| figure.name.contains(part))
    };
    let figures: Vec<&Figure> = figures::ALL.iter().filter(wanted).collect();
    ensure!(
        !figures.is_empty(),
        "no figure has such a name: {:?}",
        options.only
    );
    setup::run(false)?;
    build_ebpf::run()?;
    let binary = test::build_agent(!options.debug)?;
    let swarm = step::timed("start three nodes of Docker Swarm", Side::swarm)?;
    let skep = step::timed("start three nodes of Skep", || Side::skep(binary))?;
    let mut rows = Vec::new();
    let result = measure(options.rounds, &figures, [&swarm, &skep], &mut rows);
    if options.debug {
        println!("\nThe agent is a debug build.");
    }
    println!("\n{}", report::table(&figures, &rows));
    println!(
        "Seconds unless the name says otherwise: medians, and the ratio of each pair as median (least to greatest)."
    );
    println!("{}", report::write(&figures, &rows)?.display());
    result
}

fn measure(rounds: usize, figures: &[&Figure], sides: [&Side; 2], rows: &mut Vec<Row>) -> Result<()> {
    for round in 1..=rounds {
        for figure in figures {
            if round > figure.rounds {
                continue;
            }
            let [swarm, skep] = match figure.measure {
                Measure::Both(measure) => [Some(measure(sides[0])?), Some(measure(sides[1])?)],
                // The floor is Docker's alone, on the same machine at the same time.
                Measure::Floor(measure) => [None, Some(measure(sides[1])?)],
            };
            let row = Row {
                figure: figure.name,
                swarm,
                skep,
            };
            println!("    round {round} of {rounds}: {row}");
            rows.push(row);
        }
    }
    Ok(())
}
