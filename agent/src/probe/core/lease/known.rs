//! What a node knows of an address's holder.

use std::time::Duration;

use crate::probe::core::held::{Held, Reason};
use crate::probe::core::message::Tenure;

#[derive(Clone, Debug)]
pub struct Known {
    /// The highest heard of.
    pub term: u64,
    pub holder: Option<u32>,
    since_unix_ms: u64,
    previous: Option<u32>,
    reason: Reason,
    /// When the holder was last known to hold.
    pub heard: Duration,
}

impl Known {
    pub fn new(now: Duration) -> Self {
        Self {
            term: 0,
            holder: None,
            since_unix_ms: 0,
            previous: None,
            reason: Reason::Nobody,
            heard: now,
        }
    }

    pub fn held(&self) -> Held {
        Held {
            holder: self.holder,
            since_unix_ms: self.since_unix_ms,
            previous: self.previous,
            reason: self.reason,
        }
    }

    pub fn tenure(&self) -> Tenure {
        Tenure {
            term: self.term,
            since_unix_ms: self.since_unix_ms,
            previous: self.previous,
            reason: self.reason,
        }
    }

    /// A node says that it holds the address. False when another one is known to have taken it later. Terms may be lost
    /// with the memory of a majority that restarts: they only decide between two that say so at the same time.
    pub fn learn(&mut self, node: u32, tenure: &Tenure, now: Duration) -> bool {
        let other = self.holder.is_some_and(|holder| holder != node);
        if other && tenure.term <= self.term {
            return false;
        }
        self.term = tenure.term;
        self.holder = Some(node);
        self.since_unix_ms = tenure.since_unix_ms;
        self.previous = tenure.previous;
        self.reason = tenure.reason;
        self.heard = now;
        true
    }

    /// An observer says that the holder known here still holds it.
    pub fn confirm(&mut self, node: Option<u32>, term: u64, now: Duration) {
        if self.holder.is_some() && node == self.holder && term >= self.term {
            self.heard = now;
        }
    }

    /// The holder holds no longer.
    pub fn end(&mut self, reason: impl FnOnce(u32) -> Reason, unix_ms: u64) {
        if let Some(holder) = self.holder.take() {
            self.previous = Some(holder);
            self.reason = reason(holder);
            self.since_unix_ms = unix_ms;
        }
    }

    /// This node begins to hold it.
    pub fn begin(&mut self, me: u32, term: u64, handed_by: Option<u32>, unix_ms: u64, now: Duration) {
        self.end(Reason::LeaseEnded, unix_ms);
        if let Some(from) = handed_by {
            self.previous = Some(from);
            self.reason = Reason::HandedOver(from);
        } else if self.reason == Reason::Nobody {
            self.reason = Reason::FirstHolder;
        }
        self.term = term;
        self.holder = Some(me);
        self.since_unix_ms = unix_ms;
        self.heard = now;
    }

    /// Who lost it last, while nobody holds it.
    pub fn lapsed(&self) -> Option<u32> {
        self.previous.filter(|_| self.holder.is_none())
    }
}
