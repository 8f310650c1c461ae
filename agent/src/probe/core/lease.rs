//! Leases of addresses: one holder at a time, agreed on without the managers. Time and messages are arguments.
//!
//! A holder claims its address again and again; an observer grants it to one node at a time, for [`LEASE`] from the
//! receipt of a claim. A node holds an address as long as a majority of the observers is bound by grants to it, counted
//! from the *sending* of its claims, less [`MARGIN`]: whatever is lost or late, its view ends before the grants do, so
//! two majorities, which share an observer, never bind for two nodes at once. Clocks need not agree, only run alike.
//!
//! An observer that starts anew has forgotten its grants: it is quiet for one lease, except towards a node that claims
//! an unexpired grant of it. One that is newly appointed may meet majorities of other observers: it is quiet too, except
//! towards a node that holds the address.
//!
//! **Two observers** have no majority when one is gone. Whoever misses the other holds alone if the outside world says
//! that it is the connected one ([`World::may_hold`]); when both do, the worse-ranked yields as soon as they hear each
//! other.
//!
//! A change of observers is safe when majorities of the old and the new set share an observer, or when old holder and
//! new claimant reach a common node: whoever meets a newer epoch adopts it.
//!
//! - [`observer`]: whom an observer has granted an address to;
//! - [`owner`]: claims, candidacy and hand-over of a node that may hold it;
//! - [`known`]: who holds it, for everybody;
//! - [`address`]: the three together, for one address.

pub mod address;
pub mod known;
pub mod observer;
pub mod owner;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::probe::core::held::Held;
use crate::probe::core::judge::Judge;
use crate::probe::core::message::{Part, Tenure};
use crate::probe::core::watched::Lease;
use address::Address;

/// How long an observer is bound by a grant.
pub const LEASE: Duration = Duration::from_millis(400);
/// By so much a holder's view ends before the grants: clocks that run apart, and time to write it into the kernel.
pub const MARGIN: Duration = Duration::from_millis(20);

/// What the machine asks the outside.
pub trait World {
    /// Whether this node may take the address now: the interface is here and has carrier. `alone`: and the rule for two
    /// nodes says that it is the connected one.
    fn may_hold(&mut self, index: u32, alone: bool) -> bool;
    /// For what is told to people; nothing is decided by it.
    fn unix_ms(&self) -> u64;
}

/// What surrounds one step of the machine.
pub struct Around<'a> {
    pub now: Duration,
    pub judge: &'a Judge,
    pub world: &'a mut dyn World,
}

/// All leases, as one node takes part in them.
#[derive(Debug)]
pub struct Leases {
    me: u32,
    started: Duration,
    stopping: bool,
    addresses: BTreeMap<u32, Address>,
}

impl Leases {
    pub fn new(me: u32, started: Duration) -> Self {
        Self {
            me,
            started,
            stopping: false,
            addresses: BTreeMap::new(),
        }
    }

    /// Takes over what the managers committed. Newer epochs that other nodes told of stay.
    pub fn set(&mut self, leases: &[Lease], now: Duration) {
        let listed = |index: &u32| leases.iter().any(|lease| lease.index == *index);
        self.addresses.retain(|index, _| listed(index));
        for lease in leases {
            match self.addresses.get_mut(&lease.index) {
                Some(address) => address.adopt(lease, now),
                None => {
                    let address = Address::new(self.me, lease.clone(), self.started, now, self.stopping);
                    self.addresses.insert(lease.index, address);
                }
            }
        }
    }

    /// Takes in what another node said. Parts of other matters are ignored.
    pub fn receive(&mut self, from: u32, part: &Part, around: &mut Around<'_>) {
        let index = match part {
            Part::Claim(claim) => claim.index,
            Part::Answer(answer) => answer.index,
            Part::Config(lease) => lease.index,
            Part::Transfer { index, .. }
            | Part::Refuse { index }
            | Part::Release { index, .. }
            | Part::Holder { index, .. } => *index,
            Part::Missed(_) | Part::Withdrawn { .. } => return,
        };
        if let Some(address) = self.addresses.get_mut(&index) {
            address.receive(from, part, around);
        }
    }

    /// Does whatever is due.
    pub fn poll(&mut self, around: &mut Around<'_>) {
        self.addresses
            .values_mut()
            .for_each(|address| address.poll(around));
    }

    /// When [`Leases::poll`] has something to do next.
    pub fn next_due(&self, judge: &Judge) -> Option<Duration> {
        let addresses = self.addresses.values();
        addresses.filter_map(|address| address.next_due(judge)).min()
    }

    /// From now on this node hands over what it holds, and takes nothing.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.addresses.values_mut().for_each(Address::stop);
    }

    /// What is to be sent, with its receivers.
    pub fn take_out(&mut self) -> Vec<(u32, Part)> {
        let addresses = self.addresses.values_mut();
        addresses
            .flat_map(|address| std::mem::take(&mut address.out))
            .collect()
    }

    /// Addresses of which the holder, or the end of this node's own hold, has changed: with both.
    pub fn take_changed(&mut self) -> Vec<(u32, Held, Option<Duration>)> {
        let changed = |(index, address): (&u32, &mut Address)| {
            let held = address.take_changed()?;
            Some((*index, held, address.own_until()))
        };
        self.addresses.iter_mut().filter_map(changed).collect()
    }

    /// What is known counts as changed: whoever was not ready for it when it was told hears it again.
    pub fn repeat(&mut self) {
        self.addresses.values_mut().for_each(Address::repeat);
    }

    /// Who holds what.
    pub fn held(&self) -> BTreeMap<u32, Held> {
        let held = |(index, address): (&u32, &Address)| (*index, address.held());
        self.addresses.iter().map(held).collect()
    }

    /// What this node holds itself.
    pub fn own(&self) -> BTreeMap<u32, Tenure> {
        let own = |(index, address): (&u32, &Address)| Some((*index, address.own_tenure()?));
        self.addresses.iter().filter_map(own).collect()
    }

    #[cfg(test)]
    pub fn address(&self, index: u32) -> Option<&Address> {
        self.addresses.get(&index)
    }
}
