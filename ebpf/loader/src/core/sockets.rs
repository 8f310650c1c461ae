//! The addresses that the node's own sockets find published ports on, beside the loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use skep_ebpf_common::{Address, LocalAddressValue, STAND_INS, STAND_INS_COUNT};

use crate::core::contents::address;
use crate::tables::{IngressEntry, Tables};

/// What stands for each dedicated ingress address in the traffic of nodes' own sockets. All nodes that know the same addresses say the same; another
/// address changes what is there only if both want the same place.
pub fn stand_ins(ingress: &[IngressEntry]) -> BTreeMap<IpAddr, Ipv4Addr> {
    let dedicated: BTreeSet<Ipv4Addr> = ingress
        .iter()
        .filter(|entry| entry.dedicated)
        .filter_map(|entry| match entry.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect();
    let mut taken = BTreeSet::new();
    let mut found = BTreeMap::new();
    for address in dedicated {
        // Fibonacci hashing: neighbouring addresses are spread.
        let home = u32::from(address).wrapping_mul(0x9e37_79b1);
        let places = (0..STAND_INS_COUNT).map(|step| home.wrapping_add(step) % STAND_INS_COUNT);
        // With all of them taken the address is reached by the wire alone, as another host's.
        if let Some(place) = places.into_iter().find(|place| taken.insert(*place)) {
            let stand_in = u32::from(Ipv4Addr::from(STAND_INS)) + place;
            found.insert(IpAddr::V4(address), Ipv4Addr::from(stand_in));
        }
    }
    found
}

/// Every address of the node, whatever interface it is on, and the swarm's ingress addresses, whoever holds them now.
pub fn local_addresses(tables: &Tables, mesh: Ipv4Addr) -> BTreeMap<Address, LocalAddressValue> {
    let uplinks = tables.uplinks.iter().flat_map(|uplink| &uplink.addresses);
    let stand_ins = stand_ins(&tables.ingress);
    let shared = tables.ingress.iter().map(|entry| &entry.address);
    let others = tables.other_addresses.iter().map(|other| (other, 0));
    let outside = uplinks.chain(shared).map(|found| (found, 1));
    others
        .chain(outside)
        .filter(|(found, _)| found.is_ipv4())
        .map(|(found, outside)| {
            let stand_in = stand_ins.get(found).unwrap_or(&mesh);
            let stand_in_be = u32::from_ne_bytes(stand_in.octets());
            (address(*found), LocalAddressValue { stand_in_be, outside })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use skep_ebpf_common::is_stand_in;

    use crate::tables::{IngressEntry, UplinkEntry};

    #[test]
    fn all_addresses_lead_to_the_mesh_and_dedicated_ones_to_their_own() {
        let mesh = Ipv4Addr::new(169, 254, 1, 1);
        let ip = |last| IpAddr::from([192, 0, 2, last]);
        let ingress = |last, dedicated| IngressEntry {
            address: ip(last),
            ifindex: 2,
            dedicated,
        };
        let tables = Tables {
            uplinks: vec![UplinkEntry {
                ifindex: 2,
                // The holder has the swarm's addresses among its own.
                addresses: vec![ip(1), ip(50), ip(51)],
            }],
            other_addresses: vec![IpAddr::from([172, 17, 0, 1]), "fd00::1".parse().unwrap()],
            ingress: vec![ingress(50, false), ingress(51, true), ingress(52, false)],
            ..Tables::default()
        };
        let found = local_addresses(&tables, mesh);
        let dedicated = stand_ins(&tables.ingress);
        assert_eq!(dedicated.keys().collect::<Vec<_>>(), [&ip(51)]);
        assert_eq!(
            found[&address(ip(51))].stand_in_be.to_ne_bytes(),
            dedicated[&ip(51)].octets()
        );
        let expected = [ip(1), ip(50), ip(52), IpAddr::from([172, 17, 0, 1])].map(address);
        assert_eq!(found.len(), expected.len() + 1);
        for address in expected {
            assert_eq!(found[&address].stand_in_be.to_ne_bytes(), mesh.octets());
            let bridge = address == expected[3];
            assert_eq!(found[&address].outside, u32::from(!bridge));
        }
    }

    proptest! {
        /// No two share a stand-in, all are in the range, and the order of the entries means nothing.
        #[test]
        fn stand_ins_are_told_apart(addresses in proptest::collection::btree_set(any::<u32>(), 0..600)) {
            let entry = |address: &u32| IngressEntry {
                address: IpAddr::V4(Ipv4Addr::from(*address)),
                ifindex: 0,
                dedicated: true,
            };
            let forward: Vec<IngressEntry> = addresses.iter().map(entry).collect();
            let backward: Vec<IngressEntry> = addresses.iter().rev().map(entry).collect();
            let found = stand_ins(&forward);
            prop_assert_eq!(&found, &stand_ins(&backward));
            let distinct: BTreeSet<&Ipv4Addr> = found.values().collect();
            prop_assert_eq!(distinct.len(), addresses.len().min(STAND_INS_COUNT as usize));
            for stand_in in distinct {
                prop_assert!(is_stand_in(u32::from_ne_bytes(stand_in.octets())));
            }
        }
    }
}
