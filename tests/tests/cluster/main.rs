//! Skep on three nodes, driven by the stock docker CLI. The tests share one swarm and run in order:
//! it is formed, serves, is misused, loses containers, links and a node, and is emptied.

mod faults;
mod limits;
mod points;
mod restarts;
mod users;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use skep_tests::{Cluster, suite};

/// The longest anything may take that is not under test for its speed.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let tests: Vec<suite::Test<Cluster>> = [
        points::BEFORE,
        users::TESTS,
        limits::TESTS,
        restarts::TESTS,
        faults::TESTS,
        points::AFTER,
    ]
    .concat();
    suite::run(build, &tests)
}

fn build() -> Result<Cluster> {
    let cluster = Cluster::builder("test").nodes(3).build()?;
    println!(
        "three nodes in {:.1?}, logs in {}",
        cluster.built_in(),
        cluster.logs().display()
    );
    Ok(cluster)
}
