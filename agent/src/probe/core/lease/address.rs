//! One leased address, as one node takes part in it: observer, owner, or neither.

mod step;

use std::collections::BTreeSet;
use std::time::Duration;

use super::known::Known;
use super::observer::Observer;
use super::owner::{Invited, Owner, RANK_WAIT, is_better, rank};
use super::{Around, LEASE};
use crate::probe::core::held::{Held, Reason};
use crate::probe::core::message::{Answer, Claim, Part, Tenure, Verdict};
use crate::probe::core::watched::Lease;

/// A release is told three times.
const RELEASE_AGAIN: Duration = Duration::from_millis(20);
/// Longer lists of owners are told by the managers only.
const MAX_TOLD_OWNERS: usize = 128;

#[derive(Debug)]
pub struct Address {
    me: u32,
    lease: Lease,
    stopping: bool,
    observer: Observer,
    owner: Owner,
    known: Known,
    /// A release is repeated: number of the claim, how often, when next.
    releasing: Option<(u64, u8, Duration)>,
    pub out: Vec<(u32, Part)>,
    changed: bool,
}

impl Address {
    pub fn new(me: u32, lease: Lease, started: Duration, now: Duration, stopping: bool) -> Self {
        Self {
            me,
            lease,
            stopping,
            observer: Observer::new(started, now),
            owner: Owner::new(now + LEASE),
            known: Known::new(now),
            releasing: None,
            out: Vec::new(),
            changed: true,
        }
    }

    /// Follows a newer epoch.
    pub fn adopt(&mut self, lease: &Lease, now: Duration) {
        if lease.epoch <= self.lease.epoch {
            return;
        }
        let was_observer = self.lease.observers.contains(&self.me);
        if !was_observer && lease.observers.contains(&self.me) {
            self.observer.appoint(now);
        }
        self.lease = lease.clone();
        // The managers may have had a reason to rank anew.
        self.owner.forgive();
        self.owner.next = now;
    }

    pub fn stop(&mut self) {
        self.stopping = true;
        self.owner.next = Duration::ZERO;
    }

    pub fn held(&self) -> Held {
        self.known.held()
    }

    pub fn own_until(&self) -> Option<Duration> {
        self.owner.until()
    }

    /// Whether this node has handed the address over to that one, though its own view has not ended yet.
    pub fn has_handed_to(&self, node: u32) -> bool {
        self.owner.has_handed_to(node)
    }

    /// None while this node hands the address over, too.
    pub fn own_tenure(&self) -> Option<Tenure> {
        let holds = self.owner.until().is_some() && self.owner.handing.is_none();
        holds.then(|| self.known.tenure())
    }

    pub fn repeat(&mut self) {
        self.changed = true;
    }

    pub fn take_changed(&mut self) -> Option<Held> {
        std::mem::take(&mut self.changed).then(|| self.held())
    }

    pub fn receive(&mut self, from: u32, part: &Part, around: &mut Around<'_>) {
        match part {
            Part::Claim(claim) => self.on_claim(from, claim, around),
            Part::Answer(answer) => self.on_answer(from, answer, around),
            Part::Transfer { number, to, .. } => self.on_transfer(from, *number, *to, around),
            Part::Refuse { .. } => self.on_refuse(from, around.now),
            Part::Release { number, .. } => self.on_release(from, *number, around),
            Part::Holder { tenure, .. } => self.on_holder(from, tenure, around.now),
            Part::Config(lease) => self.adopt(lease, around.now),
            Part::Missed(_) | Part::Withdrawn { .. } => {}
        }
        self.deliver_own(around);
    }

    /// What this node says to itself.
    fn deliver_own(&mut self, around: &mut Around<'_>) {
        while let Some(at) = self.out.iter().position(|(to, _)| *to == self.me) {
            let (_, part) = self.out.remove(at);
            match part {
                Part::Claim(claim) => self.on_claim(self.me, &claim, around),
                Part::Answer(answer) => self.on_answer(self.me, &answer, around),
                Part::Transfer { number, to, .. } => {
                    self.observer.transfer(self.me, number, to, around.now);
                }
                Part::Release { number, .. } => self.observer.release(self.me, number, around.now),
                _ => {}
            }
        }
    }

    fn on_claim(&mut self, from: u32, claim: &Claim, around: &mut Around<'_>) {
        let now = around.now;
        if claim.epoch < self.lease.epoch {
            self.tell_config(from);
        }
        if from != self.me {
            match &claim.tenure {
                Some(tenure) => self.on_holder(from, tenure, now),
                None => self.let_go_first(from, now),
            }
        }
        let is_observer = self.lease.observers.contains(&self.me);
        let verdict = if claim.observers != fingerprint(&self.lease) {
            // The claimant asks an observer of its own epoch; only that one's answer counts there.
            Verdict::OtherObservers
        } else if is_observer {
            let is_owner = rank(&self.lease, from).is_some();
            let is_one_of_two = self.lease.observers.len() == 2;
            self.observer.decide(from, claim, is_owner, is_one_of_two, now)
        } else {
            return;
        };
        let answer = Answer {
            index: self.lease.index,
            number: claim.number,
            epoch: self.lease.epoch,
            verdict,
            term: self.known.term,
            holder: self.known.holder,
        };
        self.out.push((from, Part::Answer(answer)));
    }

    fn on_answer(&mut self, from: u32, answer: &Answer, around: &mut Around<'_>) {
        let now = around.now;
        if answer.epoch < self.lease.epoch {
            self.tell_config(from);
        }
        let holds = self.owner.until().is_some();
        self.known.confirm(answer.holder, answer.term, now);
        self.owner.seen_term = self.owner.seen_term.max(answer.term);
        match answer.verdict {
            Verdict::Granted => self.on_grant(from, answer.number, around),
            Verdict::Denied { to, left } => {
                self.owner.denied(from);
                let Some(to) = to.filter(|_| !holds && self.owner.invited.is_none()) else {
                    return;
                };
                let is_better = is_better(&self.lease, to, self.me);
                if answer.holder == Some(to) || (is_better && self.owner.defers(now)) {
                    self.stand_back(now + left, now);
                    // It tries again as soon as it hears that others are free.
                    self.tell_release(to, self.owner.number);
                }
            }
            Verdict::OtherObservers => self.owner.denied(from),
        }
    }

    fn on_grant(&mut self, from: u32, number: u64, around: &mut Around<'_>) {
        let now = around.now;
        if self.owner.handing.is_some() {
            return;
        }
        let held = self.owner.until().is_some();
        if !self.owner.granted(from, number, &self.lease, self.me, now) {
            return;
        }
        self.changed = true;
        if !held {
            let handed_by = self.owner.invited.take().map(|invited| invited.by);
            // Who let go of it, or lost it, has a reason; it is asked again later.
            let before = handed_by.or(self.known.lapsed()).or(self.known.holder);
            if let Some(before) = before.filter(|before| *before != self.me) {
                self.owner.avoid(before, now);
            }
            // Above all that a majority has heard of.
            let term = self.known.term.max(self.owner.seen_term) + 1;
            self.known
                .begin(self.me, term, handed_by, around.world.unix_ms(), now);
            // Told at once.
            self.owner.next = now;
            self.releasing = None;
            self.owner.end_candidacy();
        }
    }

    /// A better candidate is at it.
    fn let_go_first(&mut self, from: u32, now: Duration) {
        let stands = self.owner.until().is_none() && self.owner.invited.is_none();
        if stands && is_better(&self.lease, from, self.me) && self.owner.defers(now) {
            self.stand_back(self.owner.free_at.max(now + RANK_WAIT), now);
        }
    }

    /// A candidate lets others go first.
    fn stand_back(&mut self, until: Duration, now: Duration) {
        self.owner.free_at = until;
        self.owner.invited = None;
        if self.owner.withdraw() {
            self.observer.release(self.me, self.owner.number, now);
            for observer in self.lease.observers.clone() {
                self.tell_release(observer, self.owner.number);
            }
        }
    }

    /// Another node says that it holds the address.
    fn on_holder(&mut self, from: u32, tenure: &Tenure, now: Duration) {
        if self.owner.until().is_some() {
            let is_taker = self.has_handed_to(from);
            let yields = if self.lease.observers.len() == 2 {
                is_better(&self.lease, from, self.me)
            } else {
                tenure.term > self.known.term
            };
            if !is_taker && !yields {
                if tenure.term >= self.known.term {
                    self.known.term = tenure.term + 1;
                    self.owner.next = now;
                    self.changed = true;
                }
                return;
            }
            self.owner.lose();
            self.changed = true;
            if !is_taker {
                self.tell_all_release(now);
            }
            // Of two that held, the better one is right, whatever its term.
            self.known.holder = None;
        }
        let before = self.known.held();
        if self.known.learn(from, tenure, now) {
            self.changed |= self.known.held() != before;
            self.owner.wait_until(now + LEASE);
            self.owner.end_candidacy();
            self.stand_back(self.owner.free_at, now);
        }
    }

    fn on_transfer(&mut self, from: u32, number: u64, to: u32, around: &mut Around<'_>) {
        let now = around.now;
        self.observer.transfer(from, number, to, now);
        if to != self.me || self.owner.until().is_some() {
            return;
        }
        let index = self.lease.index;
        let able = rank(&self.lease, self.me).is_some() && !self.stopping;
        if !able || !around.world.may_hold(index, false) {
            self.out.push((from, Part::Refuse { index }));
            return;
        }
        if self.owner.invited.is_none() {
            self.owner.next = now;
        }
        self.owner.invited = Some(Invited {
            by: from,
            until: now + LEASE,
        });
    }

    fn on_refuse(&mut self, from: u32, now: Duration) {
        if self.owner.handing.is_some_and(|handing| handing.to == from) {
            self.owner.take_back(now);
        }
    }

    fn on_release(&mut self, from: u32, number: u64, around: &mut Around<'_>) {
        self.observer.release(from, number, around.now);
        if self.owner.until().is_none() {
            self.owner.next = around.now;
        }
        if self.known.holder == Some(from) {
            self.known.end(Reason::GaveUp, around.world.unix_ms());
            self.owner.free_at = around.now;
            self.changed = true;
        }
    }

    fn tell_config(&mut self, to: u32) {
        if self.lease.owners.len() <= MAX_TOLD_OWNERS && to != self.me {
            self.out.push((to, Part::Config(self.lease.clone())));
        }
    }

    fn tell_release(&mut self, to: u32, number: u64) {
        let index = self.lease.index;
        self.out.push((to, Part::Release { index, number }));
    }

    fn tell_all_release(&mut self, now: Duration) {
        let number = self.owner.number;
        for to in self.audience() {
            self.tell_release(to, number);
        }
        self.observer.release(self.me, number, now);
        self.releasing = Some((number, 2, now + RELEASE_AGAIN));
    }

    /// Who hears of claims: observers decide, owners wait, and who held it before lets go.
    fn audience(&self) -> BTreeSet<u32> {
        let lease = &self.lease;
        let before = self.known.tenure().previous;
        let all = lease.observers.iter().chain(&lease.owners).copied();
        all.chain(before).chain(self.known.holder).collect()
    }
}

/// Tells sets of observers apart (FNV-1a over their indexes in order).
fn fingerprint(lease: &Lease) -> u64 {
    let observers: BTreeSet<u32> = lease.observers.iter().copied().collect();
    let bytes = observers.into_iter().flat_map(u32::to_be_bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
