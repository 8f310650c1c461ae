//! Which ingress addresses and routes the interfaces must get or lose.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::Ipv4Net;

use crate::ingress::core::place::Places;

/// Of ours, on the interfaces of this node: interface and address, interface and subnet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub addresses: BTreeSet<(u32, IpAddr)>,
    pub routes: BTreeSet<(u32, Ipv4Net)>,
}

/// One change. They are made in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    AddRoute(u32, Ipv4Net),
    /// Adds it or lengthens its life.
    Carry(u32, IpAddr),
    PutDown(u32, IpAddr),
    RemoveRoute(u32, Ipv4Net),
}

/// What to change so that this node carries the addresses of `held` (indexes of leases) and no others. An address that
/// is there already is renewed: by itself it goes, so that a dead agent's address does not stay.
pub fn changes(places: &Places, held: &BTreeSet<u32>, standing: &Standing) -> Vec<Change> {
    let mut wanted = Standing::default();
    for (index, place) in places {
        let Some(interface) = &place.interface else {
            continue;
        };
        if held.contains(index) {
            wanted.addresses.insert((interface.index, place.address));
        }
        // Everywhere and beforehand: replies leave by it in the moment of a take-over.
        wanted
            .routes
            .extend(interface.route.map(|subnet| (interface.index, subnet)));
    }
    let routes = wanted.routes.difference(&standing.routes);
    let old_addresses = standing.addresses.difference(&wanted.addresses);
    let old_routes = standing.routes.difference(&wanted.routes);
    let mut changes: Vec<Change> = routes.map(|&(at, subnet)| Change::AddRoute(at, subnet)).collect();
    changes.extend(
        wanted
            .addresses
            .iter()
            .map(|&(at, address)| Change::Carry(at, address)),
    );
    changes.extend(old_addresses.map(|&(at, address)| Change::PutDown(at, address)));
    changes.extend(old_routes.map(|&(at, subnet)| Change::RemoveRoute(at, subnet)));
    changes
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::ingress::core::place::{Interface, Place};

    fn places(routed: &[bool]) -> Places {
        let place = |(n, &routed): (usize, &bool)| {
            let n = n as u8;
            let interface = Interface {
                index: u32::from(n % 3) + 2,
                name: String::new(),
                mac: [0; 6],
                carrier: true,
                own: None,
                router: None,
                route: routed.then(|| Ipv4Net::new(Ipv4Addr::new(10, n, 0, 0), 24).unwrap()),
            };
            let place = Place {
                address: IpAddr::from([10, n, 0, 9]),
                dedicated: false,
                interface: Some(interface),
                pair: false,
            };
            (u32::from(n), place)
        };
        routed.iter().enumerate().map(place).collect()
    }

    fn apply(standing: &mut Standing, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::AddRoute(at, subnet) => assert!(standing.routes.insert((at, subnet))),
                Change::Carry(at, address) => {
                    standing.addresses.insert((at, address));
                }
                Change::PutDown(at, address) => assert!(standing.addresses.remove(&(at, address))),
                Change::RemoveRoute(at, subnet) => assert!(standing.routes.remove(&(at, subnet))),
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_stood_the_same_stands_after(
            before in prop::collection::vec(any::<bool>(), 0..6),
            after in prop::collection::vec(any::<bool>(), 0..6),
            held_before: BTreeSet<u32>,
            held in prop::collection::btree_set(0u32..6, 0..6),
        ) {
            let mut standing = Standing::default();
            apply(&mut standing, &changes(&places(&before), &held_before, &Standing::default()));
            let wanted = places(&after);
            let now = changes(&wanted, &held, &standing);
            apply(&mut standing, &now);
            let mut fresh = Standing::default();
            apply(&mut fresh, &changes(&wanted, &held, &Standing::default()));
            prop_assert_eq!(&standing, &fresh);
            // Then only lives are lengthened.
            let again = changes(&wanted, &held, &standing);
            prop_assert!(again.iter().all(|change| matches!(change, Change::Carry(..))));
            prop_assert_eq!(again.len(), standing.addresses.len());
        }
    }
}
