//! What Swarm mode does, on a swarm of three managers, driven by the stock docker CLI.
//!
//! The tests share the swarm and run in order; each leaves it as it found it. They print how long things took, and fail
//! only where something never may be. What breaks a swarm (locked managers, a lost quorum) has a cluster of its own in
//! `lone`.

mod clients;
mod lone;
mod members;
mod modes;
mod placement;
mod stage;
mod updates;

use std::process::ExitCode;
use std::time::Duration;

use skep_tests::suite;

use stage::Stage;

/// The longest anything may take that is not under test for its speed.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let tests: Vec<suite::Test<Stage>> = [
        stage::TESTS,
        updates::TESTS,
        modes::TESTS,
        placement::TESTS,
        clients::logs::TESTS,
        clients::api::TESTS,
        clients::sockets::TESTS,
        clients::tools::TESTS,
        members::TESTS,
        lone::TESTS,
    ]
    .concat();
    suite::run_mended(Stage::build, Stage::mend, &tests)
}
