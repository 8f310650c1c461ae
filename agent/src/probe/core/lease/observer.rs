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
    /// Who handed it over. Its view may last until then: if the taker gives the grant back, it is not free before.
    behind: Option<Behind>,
}

#[derive(Clone, Copy, Debug)]
struct Behind {
    holder: u32,
    until: Duration,
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
        let mut behind = None;
        if let Some(grant) = self.grant.filter(|grant| now < grant.until) {
            let is_taken_back = holds && grant.reserved_by == Some(from);
            if grant.to != from && !is_taken_back {
                return Verdict::Denied {
                    to: Some(grant.to),
                    left: grant.until - now,
                };
            }
            behind = grant.behind.filter(|_| !is_taken_back);
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
            behind,
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
            let own = Behind {
                holder: from,
                until: grant.until,
            };
            *grant = Grant {
                to,
                until: now + LEASE,
                number: 0,
                reserved_by: Some(from),
                behind: if is_set_aside { grant.behind } else { Some(own) },
            };
        }
    }

    /// A node does not want what claims up to this number were granted.
    pub fn release(&mut self, from: u32, number: u64, now: Duration) {
        let Some(mut grant) = self.grant else { return };
        let behind = grant
            .behind
            .filter(|behind| behind.holder != from && now < behind.until);
        let is_released = grant.to == from && grant.number <= number;
        if grant.reserved_by == Some(from) || (is_released && behind.is_none()) {
            self.grant = None;
            return;
        }
        match behind {
            Some(Behind { holder, until }) if is_released => {
                grant = Grant {
                    to: holder,
                    until,
                    number: 0,
                    reserved_by: None,
                    behind: None,
                };
            }
            _ => grant.behind = behind,
        }
        self.grant = Some(grant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn claim(number: u64) -> Claim {
        Claim {
            index: 1,
            epoch: 1,
            observers: 0,
            number,
            renews: false,
            tenure: None,
        }
    }

    fn ask(observer: &mut Observer, from: u32, number: u64, at: u64) -> Verdict {
        observer.decide(from, &claim(number), true, false, ms(at))
    }

    /// Node 1 holds by a grant of 1000 ms, and hands over to node 2 at 1100 ms.
    fn handed_over() -> Observer {
        let mut observer = Observer::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(ask(&mut observer, 1, 7, 1000), Verdict::Granted);
        observer.transfer(1, 7, 2, ms(1100));
        observer
    }

    #[test]
    fn what_the_taker_gives_back_is_bound_as_long_as_the_holders_view_lasts() {
        for claims in [false, true] {
            let mut observer = handed_over();
            if claims {
                assert_eq!(ask(&mut observer, 2, 1, 1110), Verdict::Granted);
            }
            observer.release(2, 1, ms(1120));
            let left = ms(1400 - 1130);
            assert_eq!(
                ask(&mut observer, 3, 1, 1130),
                Verdict::Denied { to: Some(1), left }
            );
            assert_eq!(ask(&mut observer, 3, 2, 1400), Verdict::Granted);
        }
    }

    #[test]
    fn what_the_holder_gives_up_is_free_unless_the_taker_has_it() {
        let mut observer = handed_over();
        observer.release(1, 7, ms(1120));
        assert_eq!(ask(&mut observer, 3, 1, 1130), Verdict::Granted);

        let mut observer = handed_over();
        assert_eq!(ask(&mut observer, 2, 1, 1110), Verdict::Granted);
        observer.release(1, 7, ms(1120));
        let left = ms(1510 - 1130);
        assert_eq!(
            ask(&mut observer, 3, 1, 1130),
            Verdict::Denied { to: Some(2), left }
        );
        observer.release(2, 1, ms(1140));
        assert_eq!(ask(&mut observer, 3, 2, 1150), Verdict::Granted);
    }
}
