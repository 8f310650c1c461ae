//! Names for services that were given none: `adjective_surname`, as Swarm's.

const ADJECTIVES: [&str; 16] = [
    "amber", "brisk", "calm", "daring", "earnest", "fluent", "gentle", "honest", "keen", "lucid", "merry",
    "nimble", "patient", "quiet", "steady", "witty",
];
const SURNAMES: [&str; 16] = [
    "boole", "curie", "dijkstra", "euler", "franklin", "gauss", "hopper", "hypatia", "karlin", "lamport",
    "lovelace", "noether", "perlman", "shannon", "turing", "wilson",
];

/// A name that is not `taken`, chosen by `chance`; numbered when all plain ones are taken.
pub fn invent(chance: u64, taken: impl Fn(&str) -> bool) -> String {
    let pairs = (ADJECTIVES.len() * SURNAMES.len()) as u64;
    let start = chance % pairs;
    let mut number = 0;
    loop {
        for step in 0..pairs {
            let pair = ((start + step) % pairs) as usize;
            let (adjective, surname) = (ADJECTIVES[pair / SURNAMES.len()], SURNAMES[pair % SURNAMES.len()]);
            let name = match number {
                0 => format!("{adjective}_{surname}"),
                _ => format!("{adjective}_{surname}{number}"),
            };
            if !taken(&name) {
                return name;
            }
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn never_invents_a_taken_name() {
        let mut taken = BTreeSet::new();
        for chance in 0..600 {
            let name = invent(chance * 7919, |name| taken.contains(name));
            assert!(taken.insert(name));
        }
    }
}
