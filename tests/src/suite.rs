//! A test runner whose tests share one cluster, in order, and always take it down.
//!
//! libtest drops no static at its end, so a shared cluster would outlive its tests there. The lines
//! printed are libtest's; arguments are substrings of the names to run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow};

/// A named test on the shared fixture.
pub type Test<F> = (&'static str, fn(&F) -> Result<()>);

/// Makes the fixture once, runs every test that the command line does not filter out, and prints a
/// summary. A failed test does not stop the others.
pub fn run<F>(make: impl FnOnce() -> Result<F>, tests: &[Test<F>]) -> ExitCode {
    run_mended(make, |_| Ok(()), tests)
}

/// As [`run`], with `mend` after a test that failed, so that the next one finds the fixture as it should be.
pub fn run_mended<F>(
    make: impl FnOnce() -> Result<F>,
    mend: impl Fn(&F) -> Result<()>,
    tests: &[Test<F>],
) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(*filter));
    let chosen: Vec<&Test<F>> = tests.iter().filter(|(name, _)| wanted(name)).collect();
    println!("\nrunning {} tests", chosen.len());
    let begin = Instant::now();
    let mut failures = Vec::new();
    if !chosen.is_empty() {
        match guarded(make) {
            Ok(fixture) => {
                for test in &chosen {
                    let failure = run_one(test, &fixture);
                    if failure.is_some()
                        && let Err(error) = guarded(|| mend(&fixture))
                    {
                        println!("    and what it left could not be mended: {error:#}");
                    }
                    failures.extend(failure);
                }
            }
            Err(error) => {
                println!("the fixture could not be made: {error:#}");
                failures.extend(chosen.iter().map(|(name, _)| *name));
            }
        }
    }
    let passed = chosen.len() - failures.len();
    if !failures.is_empty() {
        println!("\nfailures:\n    {}", failures.join("\n    "));
    }
    println!(
        "\ntest result: {}. {passed} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failures.is_empty() { "ok" } else { "FAILED" },
        failures.len(),
        tests.len() - chosen.len(),
        begin.elapsed().as_secs_f64(),
    );
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_one<F>((name, test): &Test<F>, fixture: &F) -> Option<&'static str> {
    let begin = Instant::now();
    let result = guarded(|| test(fixture));
    let seconds = begin.elapsed().as_secs_f64();
    match result {
        Ok(()) => {
            println!("test {name} ... ok ({seconds:.1} s)");
            None
        }
        Err(error) => {
            println!(
                "test {name} ... FAILED ({seconds:.1} s)\n    {}",
                format!("{error:#}").replace('\n', "\n    ")
            );
            Some(name)
        }
    }
}

/// A panic is an error like any other, so that the fixture is dropped.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(anyhow!("panicked: {}", text.unwrap_or_default()))
    })
}
