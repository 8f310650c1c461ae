//! What differs between two answers.

use std::collections::BTreeSet;
use std::fmt;

use super::normal::Leaves;

/// One part of an answer that is not the same on both sides.
#[derive(Clone, Debug)]
pub struct Difference {
    pub path: String,
    swarm: Option<String>,
    skep: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |side: &Option<String>| side.clone().unwrap_or_else(|| "(absent)".to_string());
        write!(
            f,
            "{}\n      Swarm {}\n      Skep  {}",
            self.path,
            show(&self.swarm),
            show(&self.skep)
        )
    }
}

pub fn differences(swarm: &Leaves, skep: &Leaves) -> Vec<Difference> {
    let paths: BTreeSet<&String> = swarm.keys().chain(skep.keys()).collect();
    paths
        .into_iter()
        .filter(|path| swarm.get(*path) != skep.get(*path))
        .map(|path| Difference {
            path: path.clone(),
            swarm: swarm.get(path).cloned(),
            skep: skep.get(path).cloned(),
        })
        .collect()
}
