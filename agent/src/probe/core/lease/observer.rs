//! One observer's grants of one address: to one node at a time.

use std::time::Duration;

use super::LEASE;
use crate::probe::core::message::{Claim, Verdict};

#[derive(Debug)]
pub struct Observer {
    /// Grants from before are forgotten.
    started: Duration,
    /// Before, others observed.
    appointed: Duration,
    grant: Option<Grant>,
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    to: u32,
    until: Duration,
    /// Of the latest claim it was granted by.
    number: u64,
    /// Set aside by this holder, and not claimed yet: it may take it back.
    reserved_by: Option<u32>,
}

impl Observer {
    pub fn new(started: Duration, appointed: Duration) -> Self {
        Self {
            started,
            appointed,
            grant: None,
        }
    }

    pub fn appoint(&mut self, now: Duration) {
        self.appointed = now;
    }

    /// Decides about a claim. `is_owner`: the claimant may hold the address at all. `is_one_of_two`: the only other
    /// observer is the claimant, so that whatever is forgotten was granted to it or to this node, which has not it now.
    pub fn decide(
        &mut self,
        from: u32,
        claim: &Claim,
        is_owner: bool,
        is_one_of_two: bool,
        now: Duration,
    ) -> Verdict {
        let holds = claim.tenure.is_some();
        if let Some(grant) = self.grant.filter(|grant| now < grant.until) {
            let is_taken_back = holds && grant.reserved_by == Some(from);
            if grant.to != from && !is_taken_back {
                return Verdict::Denied {
                    to: Some(grant.to),
                    left: grant.until - now,
                };
            }
        } else {
            let quiet = if claim.renews || (holds && is_one_of_two) {
                Duration::ZERO
            } else if holds {
                self.started + LEASE
            } else {
                self.started.max(self.appointed) + LEASE
            };
            if now < quiet || !(is_owner || holds) {
                let left = quiet.saturating_sub(now);
                return Verdict::Denied { to: None, left };
            }
        }
        self.grant = Some(Grant {
            to: from,
            until: now + LEASE,
            number: claim.number,
            reserved_by: None,
        });
        Verdict::Granted
    }

    /// The holder wants another one to have the grant. It gives up its own with it.
    pub fn transfer(&mut self, from: u32, number: u64, to: u32, now: Duration) {
        let Some(grant) = self.grant.as_mut() else {
            return;
        };
        let is_own = grant.to == from && grant.number <= number;
        // The one it was set aside for did not come.
        let is_set_aside = grant.reserved_by == Some(from);
        if (is_own || is_set_aside) && now < grant.until {
            *grant = Grant {
                to,
                until: now + LEASE,
                number: 0,
                reserved_by: Some(from),
            };
        }
    }

    /// A node does not want what claims up to this number were granted.
    pub fn release(&mut self, from: u32, number: u64) {
        let is_released =
            |grant: &Grant| (grant.to == from && grant.number <= number) || grant.reserved_by == Some(from);
        self.grant = self.grant.filter(|grant| !is_released(grant));
    }
}
