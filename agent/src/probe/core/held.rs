//! Who holds an address, and how that came about.

use std::fmt::{self, Display, Formatter};

/// The reason of a holder's last change. Numbers are node indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody has held it yet, as far as this node knows.
    Nobody,
    FirstHolder,
    LeaseEnded(u32),
    HandedOver(u32),
    GaveUp(u32),
}

impl Reason {
    /// In words, with nodes named by `name`.
    pub fn text(&self, name: impl Fn(u32) -> String) -> String {
        match *self {
            Self::Nobody => "nobody has held it yet".to_string(),
            Self::FirstHolder => "first holder".to_string(),
            Self::LeaseEnded(node) => format!("lease of {} ended", name(node)),
            Self::HandedOver(node) => format!("handed over by {}", name(node)),
            Self::GaveUp(node) => format!("{} gave up", name(node)),
        }
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(|node| format!("node {node}")))
    }
}

/// Who holds an address now, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Node index; None while nobody is known to hold it.
    pub holder: Option<u32>,
    /// Unix time of the last change in milliseconds.
    pub since_unix_ms: u64,
    /// Who held it before.
    pub previous: Option<u32>,
    pub reason: Reason,
}
