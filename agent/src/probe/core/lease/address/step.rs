//! What falls due by the passing of time: the end of views, claims, and hand-overs.

use std::time::Duration;

use super::{Address, RELEASE_AGAIN, fingerprint};
use crate::probe::core::held::Reason;
use crate::probe::core::judge::Judge;
use crate::probe::core::lease::owner::{CLAIM_EVERY, RETRY, Wish, is_one_of_two};
use crate::probe::core::lease::{Around, LEASE};
use crate::probe::core::message::{Claim, Part};

/// When a node that hears no claims counts the holder as gone: it is told once a second.
const HOLDER_AGE: Duration = Duration::from_secs(3);
/// From one transfer to the next, until its taker is heard.
const TRANSFER_EVERY: Duration = Duration::from_millis(20);

impl Address {
    /// Does whatever is due.
    pub fn poll(&mut self, around: &mut Around<'_>) {
        self.expire(around);
        self.release_again(around.now);
        self.hand_on(around.now);
        if self.owner.until().is_none() {
            self.stand(around);
            self.deliver_own(around);
        }
        // A grant of this node's own may just have decided it: then it tells at once.
        if self.owner.until().is_some() {
            self.hold(around);
        }
        self.deliver_own(around);
    }

    /// When [`Address::poll`] has something to do next.
    pub fn next_due(&self, judge: &Judge) -> Option<Duration> {
        let mut due = Vec::new();
        due.extend(self.releasing.map(|(_, _, at)| at));
        if let Some(until) = self.owner.until() {
            due.push(until);
            due.push(match self.owner.handing {
                Some(handing) => handing.retry.min(handing.deadline),
                None => self.owner.next,
            });
        } else {
            due.extend(self.lapses_at());
            due.extend(self.owner.invited.map(|invited| invited.until));
            due.extend(self.candidate_at(judge));
        }
        due.into_iter().min()
    }

    /// When this node may claim what it does not hold.
    fn candidate_at(&self, judge: &Judge) -> Option<Duration> {
        if self.stopping {
            return None;
        }
        let lapsed = self.known.lapsed();
        self.owner.candidate_at(&self.lease, self.me, lapsed, judge)
    }

    /// When the holder that is known here counts as gone.
    fn lapses_at(&self) -> Option<Duration> {
        self.known.holder?;
        let lease = &self.lease;
        let hears_claims = lease.owners.contains(&self.me) || lease.observers.contains(&self.me);
        let age = if hears_claims { LEASE } else { HOLDER_AGE };
        Some(self.known.heard + age)
    }

    fn expire(&mut self, around: &mut Around<'_>) {
        let now = around.now;
        if self.owner.until().is_some_and(|until| until <= now) {
            self.owner.lose();
            self.owner.free_at = now;
            self.owner.next = now;
            self.known.end(Reason::LeaseEnded, around.world.unix_ms());
            self.changed = true;
        }
        if self.owner.until().is_none() && self.lapses_at().is_some_and(|at| at <= now) {
            self.known.end(Reason::LeaseEnded, around.world.unix_ms());
            self.changed = true;
        }
        if self.owner.invited.is_some_and(|invited| invited.until <= now) {
            self.owner.invited = None;
        }
    }

    fn release_again(&mut self, now: Duration) {
        let Some((number, left, _)) = self.releasing.filter(|(_, _, at)| *at <= now) else {
            return;
        };
        for to in self.audience() {
            self.tell_release(to, number);
        }
        self.releasing = (left > 1).then_some((number, left.saturating_sub(1), now + RELEASE_AGAIN));
    }

    /// Goes on with a hand-over, or takes it back when nobody takes it.
    fn hand_on(&mut self, now: Duration) {
        let Some(handing) = self.owner.handing.as_mut() else {
            return;
        };
        if handing.deadline <= now {
            self.owner.take_back(now);
            return;
        }
        if now < handing.retry {
            return;
        }
        handing.retry = now + TRANSFER_EVERY;
        let to = handing.to;
        let transfer = Part::Transfer {
            index: self.lease.index,
            number: self.owner.number,
            to,
        };
        // It may not know yet that it is an owner.
        self.tell_config(to);
        self.out.push((to, transfer.clone()));
        let observers = self.lease.observers.iter().filter(|observer| **observer != to);
        self.out
            .extend(observers.map(|observer| (*observer, transfer.clone())));
    }

    /// A holder claims again, hands over, or gives up.
    fn hold(&mut self, around: &mut Around<'_>) {
        let now = around.now;
        if self.owner.handing.is_some() || now < self.owner.next {
            return;
        }
        let index = self.lease.index;
        let is_owner = self.lease.owners.contains(&self.me);
        let must_leave = self.stopping || !is_owner || !around.world.may_hold(index, false);
        let wish = if self.owner.is_told {
            self.owner
                .wish(&self.lease, self.me, must_leave, around.judge, now)
        } else {
            // Whoever handed it over waits to hear of it.
            self.owner.is_told = true;
            Wish::Keep
        };
        match wish {
            Wish::Hand(to) if must_leave || self.owner.may_hand(now) => {
                self.owner.hand(to, now);
                self.hand_on(now);
            }
            Wish::GiveUp => {
                self.owner.lose();
                self.tell_all_release(now);
                self.known.end(Reason::GaveUp, around.world.unix_ms());
                self.owner.free_at = now;
                self.owner.next = now + RETRY;
                self.changed = true;
            }
            Wish::Keep | Wish::Hand(_) => {
                // In step, so that claims of several addresses travel in one datagram.
                let past = now.as_nanos() % CLAIM_EVERY.as_nanos();
                let left = CLAIM_EVERY - Duration::from_nanos(u64::try_from(past).unwrap_or(0));
                self.owner.next = now + left.max(RETRY);
                self.claim(around, LEASE / 2);
            }
        }
    }

    /// A candidate claims when the address is free.
    fn stand(&mut self, around: &mut Around<'_>) {
        let now = around.now;
        if self.candidate_at(around.judge).is_none_or(|at| now < at) {
            return;
        }
        self.owner.next = now + RETRY;
        if around.world.may_hold(self.lease.index, false) {
            self.claim(around, LEASE);
        }
    }

    /// `silence`: of the other one of two observers, before this one counts alone.
    fn claim(&mut self, around: &mut Around<'_>, silence: Duration) {
        let now = around.now;
        let lease = &self.lease;
        let other = lease.observers.iter().find(|observer| **observer != self.me);
        self.owner.alone = is_one_of_two(lease, self.me)
            && other.is_some_and(|other| around.judge.silence(*other, now) >= silence)
            && around.world.may_hold(lease.index, true);
        self.owner.claim(now);
        let tenure = self.own_tenure();
        for to in self.audience() {
            let claim = Claim {
                index: self.lease.index,
                epoch: self.lease.epoch,
                observers: fingerprint(&self.lease),
                number: self.owner.number,
                renews: self.owner.has_grant_of(to, now),
                tenure,
            };
            self.out.push((to, Part::Claim(claim)));
        }
    }
}
