//! The side of a node that may hold an address: its claims, what they were granted, and when to claim next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{LEASE, MARGIN};
use crate::probe::core::judge::Judge;
use crate::probe::core::watched::Lease;

/// From one claim of a holder to the next: seven may be lost in a row.
pub const CLAIM_EVERY: Duration = Duration::from_millis(50);
/// From one claim of a candidate to the next.
pub const RETRY: Duration = Duration::from_millis(25);
/// So much longer waits a candidate for each better one that is not missed.
pub const RANK_WAIT: Duration = Duration::from_millis(60);
/// A better-ranked owner gets the address when it has answered for so long.
pub const SETTLED: Duration = Duration::from_secs(5);
/// For so long the taker of a hand-over may be silent; then the holder claims again, before its own view ends.
const HAND_OVER: Duration = Duration::from_millis(200);
/// No hand-over begins when the view ends sooner.
const ENOUGH: Duration = Duration::from_millis(250);
/// An owner that did not take the address, or let go of it, is not asked again for so long.
const AVOID: Duration = Duration::from_secs(5);
/// For so long of each turn a candidate lets better ones go first. In the rest it does not: they may reach too few.
const DEFERENCE: Duration = Duration::from_millis(200);
const TURN: Duration = Duration::from_millis(800);
/// As many claims as can be answered within a lease.
const REMEMBERED: usize = 20;

#[derive(Debug, Default)]
pub struct Owner {
    /// Of the latest claim.
    pub number: u64,
    sent: VecDeque<(u64, Duration)>,
    /// By observer: until when it is bound by its grant, at least.
    granted: BTreeMap<u32, Duration>,
    /// Until when this node holds the address.
    until: Option<Duration>,
    /// Not to claim before.
    pub next: Duration,
    /// When whoever holds it, or has better chances, will have lost it.
    pub free_at: Duration,
    pub handing: Option<Handing>,
    pub invited: Option<Invited>,
    /// To whom the address was handed over within what is left of the view; it may have taken it, whatever came of it.
    handed_to: BTreeSet<u32>,
    /// The others have been told that this node holds.
    pub is_told: bool,
    avoided: BTreeMap<u32, Duration>,
    /// The other one of two observers is missed, and this node is the connected one.
    pub alone: bool,
    /// The highest term that an observer told of.
    pub seen_term: u64,
    /// Since when better candidates are let go first.
    defers_since: Option<Duration>,
}

/// This node hands the address over, and claims it no more.
#[derive(Clone, Copy, Debug)]
pub struct Handing {
    pub to: u32,
    pub deadline: Duration,
    pub retry: Duration,
}

/// Another node hands the address to this one.
#[derive(Clone, Copy, Debug)]
pub struct Invited {
    pub by: u32,
    pub until: Duration,
}

/// What a holder does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Keep,
    Hand(u32),
    GiveUp,
}

impl Owner {
    /// Whoever may hold the address has lost it by `free_at`.
    pub fn new(free_at: Duration) -> Self {
        Self {
            free_at,
            ..Self::default()
        }
    }

    pub fn until(&self) -> Option<Duration> {
        self.until
    }

    pub fn has_handed_to(&self, node: u32) -> bool {
        self.handed_to.contains(&node)
    }

    /// Counts one more claim.
    pub fn claim(&mut self, now: Duration) {
        self.number += 1;
        self.sent.push_back((self.number, now));
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
    }

    pub fn has_grant_of(&self, observer: u32, now: Duration) -> bool {
        self.granted.get(&observer).is_some_and(|until| now < *until)
    }

    /// Takes in a grant. True when this node holds the address longer by it.
    pub fn granted(&mut self, observer: u32, number: u64, lease: &Lease, me: u32, now: Duration) -> bool {
        let Some((_, sent)) = self.sent.iter().find(|(sent, _)| *sent == number) else {
            return false;
        };
        let bound = *sent + LEASE - MARGIN;
        let until = self.granted.entry(observer).or_insert(bound);
        *until = bound.max(*until);
        let until = self.bound_until(lease, me).filter(|until| now < *until);
        let longer = until.is_some() && until > self.until;
        if longer {
            self.until = until;
            self.handed_to.clear();
        }
        longer
    }

    /// Until when a majority of the observers is bound.
    fn bound_until(&self, lease: &Lease, me: u32) -> Option<Duration> {
        let observers = &lease.observers;
        if self.alone && is_one_of_two(lease, me) {
            return self.granted.get(&me).copied();
        }
        let mut bound: Vec<Duration> = observers
            .iter()
            .filter_map(|observer| self.granted.get(observer).copied())
            .collect();
        bound.sort_unstable_by(|one, other| other.cmp(one));
        bound.get(observers.len() / 2).copied()
    }

    pub fn denied(&mut self, observer: u32) {
        self.granted.remove(&observer);
    }

    /// Whether a better candidate goes first now.
    pub fn defers(&mut self, now: Duration) -> bool {
        let since = *self.defers_since.get_or_insert(now);
        now.saturating_sub(since).as_millis() % TURN.as_millis() < DEFERENCE.as_millis()
    }

    /// There is a holder: the next candidacy is another one.
    pub fn end_candidacy(&mut self) {
        self.defers_since = None;
    }

    /// Gives back what a candidate was granted, or may be by answers under way. True when it has claimed at all.
    pub fn withdraw(&mut self) -> bool {
        let has_claimed = !self.sent.is_empty();
        self.sent.clear();
        self.granted.clear();
        has_claimed
    }

    /// This node holds the address no longer, and what it was granted does not count.
    pub fn lose(&mut self) {
        self.until = None;
        self.is_told = false;
        self.handing = None;
        self.handed_to.clear();
        self.granted.clear();
        self.sent.clear();
    }

    /// Begins to hand over: no grant counts from here on, what is held is held until the view ends.
    pub fn hand(&mut self, to: u32, now: Duration) {
        self.granted.clear();
        self.sent.clear();
        self.handed_to.insert(to);
        self.handing = Some(Handing {
            to,
            deadline: now + HAND_OVER,
            retry: now,
        });
    }

    /// The hand-over has failed.
    pub fn take_back(&mut self, now: Duration) {
        if let Some(handing) = self.handing.take() {
            self.avoid(handing.to, now);
            self.next = now;
        }
    }

    /// A node could not take the address, or has just handed it over: it has its reasons.
    pub fn avoid(&mut self, node: u32, now: Duration) {
        self.avoided.insert(node, now + AVOID);
    }

    /// Somebody holds the address, at least until then.
    pub fn wait_until(&mut self, lapse: Duration) {
        self.free_at = self.free_at.max(lapse);
    }

    pub fn forgive(&mut self) {
        self.avoided.clear();
    }

    /// Whether the view lasts long enough for a hand-over to fail.
    pub fn may_hand(&self, now: Duration) -> bool {
        self.until.is_some_and(|until| now + ENOUGH <= until)
    }

    /// Whom the address should go to. `must_leave`: this node may not keep it.
    pub fn wish(&self, lease: &Lease, me: u32, must_leave: bool, judge: &Judge, now: Duration) -> Wish {
        let settled = if must_leave { Duration::ZERO } else { SETTLED };
        for &owner in &lease.owners {
            if owner == me && !must_leave {
                return Wish::Keep;
            }
            let is_avoided = self.avoided.get(&owner).is_some_and(|until| now < *until);
            let answers = judge.answers_for(owner, now).is_some_and(|time| time >= settled);
            if owner != me && !is_avoided && answers && !judge.is_quiet(owner, now) {
                return Wish::Hand(owner);
            }
        }
        if must_leave { Wish::GiveUp } else { Wish::Keep }
    }

    /// When this candidate claims; None when it is no owner. `lapsed`: who has just lost the address stands back.
    pub fn candidate_at(
        &self,
        lease: &Lease,
        me: u32,
        lapsed: Option<u32>,
        judge: &Judge,
    ) -> Option<Duration> {
        let rank = rank(lease, me)?;
        if self.invited.is_some() {
            return Some(self.next);
        }
        let better = lease.owners.iter().take(rank);
        let waiting = better.filter(|owner| Some(**owner) != lapsed && !judge.is_missed(**owner));
        let wait = RANK_WAIT * u32::try_from(waiting.count()).unwrap_or(u32::MAX);
        Some(self.next.max(self.free_at.saturating_add(wait)))
    }
}

/// Place among the owners, best is 0.
pub fn rank(lease: &Lease, node: u32) -> Option<usize> {
    lease.owners.iter().position(|owner| *owner == node)
}

/// Whether a node is ranked before another one; one that is no owner comes last.
pub fn is_better(lease: &Lease, node: u32, than: u32) -> bool {
    let place = |node| (rank(lease, node).unwrap_or(usize::MAX), node);
    place(node) < place(than)
}

pub fn is_one_of_two(lease: &Lease, node: u32) -> bool {
    lease.observers.len() == 2 && lease.observers.contains(&node)
}
