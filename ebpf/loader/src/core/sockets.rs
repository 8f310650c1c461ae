//! The addresses that the node's own sockets find published ports on, beside the loopback.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use skep_ebpf_common::{Address, LocalAddressValue};

use crate::core::contents::address;
use crate::tables::Tables;

/// Every address of the node, whatever interface it is on, and the swarm's ingress addresses, whoever holds them now.
pub fn local_addresses(tables: &Tables, mesh: Ipv4Addr) -> BTreeMap<Address, LocalAddressValue> {
    let uplinks = tables.uplinks.iter().flat_map(|uplink| &uplink.addresses);
    let dedicated: Vec<IpAddr> = tables
        .ingress
        .iter()
        .filter(|entry| entry.dedicated)
        .map(|entry| entry.address)
        .collect();
    let shared = tables.ingress.iter().map(|entry| &entry.address);
    let stand_in_be = u32::from_ne_bytes(mesh.octets());
    let value = |outside| LocalAddressValue { stand_in_be, outside };
    let others = tables.other_addresses.iter().map(|other| (other, value(0)));
    let outside = uplinks.chain(shared).map(|found| (found, value(1)));
    others
        .chain(outside)
        .filter(|(found, _)| found.is_ipv4() && !dedicated.contains(found))
        .map(|(found, value)| (address(*found), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{IngressEntry, UplinkEntry};

    #[test]
    fn all_addresses_but_dedicated_ones_lead_to_the_mesh() {
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
        let expected = [ip(1), ip(50), ip(52), IpAddr::from([172, 17, 0, 1])].map(address);
        assert_eq!(found.len(), expected.len());
        for address in expected {
            assert_eq!(found[&address].stand_in_be.to_ne_bytes(), mesh.octets());
            let bridge = address == expected[3];
            assert_eq!(found[&address].outside, u32::from(!bridge));
        }
    }
}
