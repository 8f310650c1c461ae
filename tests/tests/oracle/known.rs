//! The list of what may differ: `differences.txt`.
//!
//! - `purpose STEP PATH REASON`: at this step (`*` stands for anything) this part of the answer differs on purpose;
//! - `unbuilt STEP FEATURE`: Skep has no such feature yet, the step may differ in anything, but it must differ.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::compare::Difference;

struct Purpose {
    line: usize,
    step: String,
    path: String,
}

/// The list, and which of its lines were of use.
pub struct Known {
    purposes: Vec<Purpose>,
    unbuilt: BTreeSet<String>,
    used: Mutex<BTreeSet<usize>>,
}

impl Known {
    pub fn parse(text: &str) -> Result<Self> {
        let mut known = Self {
            purposes: Vec::new(),
            unbuilt: BTreeSet::new(),
            used: Mutex::default(),
        };
        for (number, line) in text.lines().enumerate() {
            if !line.trim().is_empty() && !line.starts_with('#') {
                known
                    .add(number + 1, line)
                    .with_context(|| format!("differences.txt, line {}: {line}", number + 1))?;
            }
        }
        Ok(known)
    }

    fn add(&mut self, number: usize, line: &str) -> Result<()> {
        let mut words = line.split_whitespace();
        let kind = words.next().context("empty")?;
        let step = words.next().context("no step")?.to_string();
        match kind {
            "purpose" => {
                let path = words.next().context("no path")?.to_string();
                words.next().context("no reason")?;
                self.purposes.push(Purpose {
                    line: number,
                    step,
                    path,
                });
            }
            "unbuilt" => {
                words.next().context("no feature")?;
                self.unbuilt.insert(step);
            }
            other => bail!("what is {other:?}?"),
        }
        Ok(())
    }

    pub fn is_unbuilt(&self, step: &str) -> bool {
        self.unbuilt.contains(step)
    }

    /// What is left of the differences of a step after those on purpose.
    pub fn unexplained(&self, step: &str, differences: Vec<Difference>) -> Vec<Difference> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        differences
            .into_iter()
            .filter(|difference| {
                let found = self.purposes.iter().filter(|purpose| {
                    matches(&purpose.step, step) && matches(&purpose.path, &difference.path)
                });
                let lines: Vec<usize> = found.map(|purpose| purpose.line).collect();
                used.extend(&lines);
                lines.is_empty()
            })
            .collect()
    }

    /// Lines that explained nothing, of those that name a step of `steps`.
    pub fn unused(&self, steps: &BTreeSet<String>) -> Vec<String> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = self.purposes.iter().filter(|purpose| {
            !used.contains(&purpose.line) && steps.iter().any(|step| matches(&purpose.step, step))
        });
        stale
            .map(|purpose| format!("line {}: {} {}", purpose.line, purpose.step, purpose.path))
            .collect()
    }

    /// Steps listed as not built that are in no script.
    pub fn unknown(&self, steps: &BTreeSet<String>) -> Vec<String> {
        self.unbuilt.difference(steps).cloned().collect()
    }
}

/// Whether `text` is as `pattern` says, in which `*` stands for any characters.
pub fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && matches(tail, &rest[at..]))
        }),
    }
}
