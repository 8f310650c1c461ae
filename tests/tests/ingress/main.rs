//! Ingress addresses on a swarm of five nodes, and on one of two: what must outlive a node, and what must never be.
//!
//! The tests of a swarm share it and run in order; each leaves all nodes alive. They print how long things took, and fail
//! only where something never may be.

mod alone;
mod holder;
mod load;
mod managers;
mod marks;
mod modes;
mod outside;
mod pair;
mod planned;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use skep_tests::suite;

use stage::Stage;

/// The longest anything may take that is not under test for its speed.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let five: Vec<suite::Test<Stage>> = [
        stage::TESTS,
        modes::TESTS,
        outside::TESTS,
        planned::TESTS,
        marks::TESTS,
        alone::TESTS,
        holder::TESTS,
        managers::TESTS,
    ]
    .concat();
    let results = [
        suite::run_mended(|| Stage::build("ingress", 5, 3), Stage::mend, &five),
        suite::run_mended(|| Stage::build("pair", 2, 2), Stage::mend, pair::TESTS),
    ];
    if results == [ExitCode::SUCCESS; 2] {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
