//! The oracle: the same scripts against dockerd's own Swarm mode and against Skep, on a cluster each of the same kind,
//! and every answer compared. What may differ stands in `differences.txt`.
//!
//! The API's version is 1.41 throughout: that Engine speaks no newer one.

mod compare;
mod fuzz;
mod http;
mod known;
mod normal;
mod random;
mod script;
mod side;
mod stacks;

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use skep_tests::{images, suite, testbox};

use known::Known;
use script::Step;
use side::Side;

/// Scripts, stacks and the schema.
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle");
/// There must be as many steps, so that none gets lost.
const LEAST_STEPS: usize = 150;

/// Both clusters.
pub struct Stage {
    swarm: Side,
    skep: Side,
    known: Known,
    /// Steps that leave the list of what is not built, or enter it (true), when it is written anew.
    changes: Mutex<Vec<(String, bool)>>,
    /// Steps that were run.
    done: Mutex<BTreeSet<String>>,
}

impl Stage {
    fn build() -> Result<Self> {
        let known = Known::parse(&read("differences.txt")?)?;
        // Once, before two clusters at a time would make them.
        images::archive(&testbox::build()?).context("make the test images")?;
        let (swarm, skep) = std::thread::scope(|scope| {
            let swarm = scope.spawn(|| Side::build("oraclea", false));
            let skep = Side::build("oracleb", true);
            let swarm = swarm
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (swarm, skep)
        });
        Ok(Self {
            swarm: swarm.context("Swarm")?,
            skep: skep.context("Skep")?,
            known,
            changes: Mutex::default(),
            done: Mutex::default(),
        })
    }

    /// Does the same on both sides at the same time.
    fn both<T: Send>(&self, work: impl Fn(&Side) -> Result<T> + Sync) -> Result<(T, T)> {
        std::thread::scope(|scope| {
            let swarm = scope.spawn(|| work(&self.swarm));
            let skep = work(&self.skep).context("Skep");
            let swarm = swarm
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((swarm.context("Swarm")?, skep?))
        })
    }

    /// Runs the script on both sides; an error names every step that differs.
    fn compare(&self, steps: &[Step]) -> Result<()> {
        let unbuilt = |id: &str| self.known.is_unbuilt(id);
        let (swarm, skep) = self.both(|side| side.run(steps, &unbuilt))?;
        let mut wrong = Vec::new();
        for ((step, swarm), skep) in steps.iter().zip(&swarm).zip(&skep) {
            let found = compare::differences(swarm, skep);
            let unexplained = self.known.unexplained(&step.id, found);
            match (self.known.is_unbuilt(&step.id), unexplained.is_empty()) {
                (true, true) if bless() => self.note(&step.id, false),
                (false, false) if bless() => self.note(&step.id, true),
                (true, true) => wrong.push(format!(
                    "{}: listed as not built, but it is as in Swarm: take it off the list",
                    step.id
                )),
                (false, false) => {
                    let lines: Vec<String> = unexplained.iter().map(|d| format!("\n    {d}")).collect();
                    wrong.push(format!("{}:{}", step.id, lines.concat()));
                }
                _ => {}
            }
        }
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.extend(steps.iter().map(|step| step.id.clone()));
        if !wrong.is_empty() {
            bail!("{} of {} steps:\n{}", wrong.len(), steps.len(), wrong.join("\n"));
        }
        Ok(())
    }

    fn note(&self, step: &str, unbuilt: bool) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.push((step.to_string(), unbuilt));
    }

    /// Writes `differences.txt` anew: without the steps that are as in Swarm now, with those that are not.
    fn write_list(&self) -> Result<()> {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let old = read("differences.txt")?;
        let gone = |line: &str| {
            let step = line
                .strip_prefix("unbuilt ")
                .and_then(|rest| rest.split(' ').next());
            step.is_some_and(|step| {
                changes
                    .iter()
                    .any(|(changed, unbuilt)| changed == step && !unbuilt)
            })
        };
        let kept = old.lines().filter(|line| !gone(line)).map(ToString::to_string);
        let new = changes
            .iter()
            .filter(|(_, unbuilt)| *unbuilt)
            .map(|(step, _)| format!("unbuilt {step} its answer differs"));
        let lines: Vec<String> = kept.chain(new).collect();
        fs::write(format!("{DIRECTORY}/differences.txt"), lines.join("\n") + "\n")?;
        Ok(())
    }

    fn script(&self, name: &str) -> Result<()> {
        let steps = script::parse(name, &read(&format!("scripts/{name}.txt"))?)?;
        self.compare(&steps)?;
        self.both(Side::clean).map(|_| ())
    }
}

/// `SKEP_ORACLE_BLESS=1` writes the list of what is not built anew instead of failing; what it writes is to be read.
fn bless() -> bool {
    std::env::var_os("SKEP_ORACLE_BLESS").is_some()
}

/// A file of [`DIRECTORY`].
fn read(file: &str) -> Result<String> {
    let path = format!("{DIRECTORY}/{file}");
    fs::read_to_string(&path).with_context(|| path)
}

fn main() -> ExitCode {
    let tests: &[suite::Test<Stage>] = &[
        ("services", |stage| stage.script("services")),
        ("service_options", |stage| stage.script("options")),
        ("modes", |stage| stage.script("modes")),
        ("updates", |stage| stage.script("updates")),
        ("tasks", |stage| stage.script("tasks")),
        ("networks", |stage| stage.script("networks")),
        ("nodes", |stage| stage.script("nodes")),
        ("swarm", |stage| stage.script("swarm")),
        ("secrets_and_configs", |stage| stage.script("data")),
        ("bad_input", |stage| stage.script("bad")),
        ("stacks", stacks::all),
        ("the_lists_are_up_to_date", lists),
        ("fuzz", fuzz::run),
    ];
    suite::run_mended(Stage::build, |stage| stage.both(Side::clean).map(|_| ()), tests)
}

/// Every line of the list explained something, and no step got lost. Only after all scripts.
fn lists(stage: &Stage) -> Result<()> {
    if bless() {
        stage.write_list()?;
    }
    let done = stage.done.lock().unwrap_or_else(PoisonError::into_inner);
    let unused = stage.known.unused(&done);
    ensure!(
        unused.is_empty(),
        "differences.txt: these explain nothing (any more):\n{}",
        unused.join("\n")
    );
    let filtered = std::env::args().skip(1).any(|word| !word.starts_with('-'));
    if filtered {
        return Ok(());
    }
    let unknown = stage.known.unknown(&done);
    ensure!(unknown.is_empty(), "not built, but in no script: {unknown:?}");
    ensure!(done.len() >= LEAST_STEPS, "{} steps only", done.len());
    println!("{} steps", done.len());
    Ok(())
}
