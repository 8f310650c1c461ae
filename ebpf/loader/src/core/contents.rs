//! From the caller's tables to what each map shall hold.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use skep_ebpf_common::{
    Address, BackendKey, BackendValue, ENDPOINT_CONTAINER, ENDPOINT_SERVING, ENDPOINT_VIP, EndpointKey,
    EndpointValue, InterfaceValue, NETWORK_INGRESS, NETWORK_INTERNAL, NetworkValue, NodeValue, OWN_DEDICATED,
    OWN_INGRESS, OwnAddressValue, SourceKey, SourceValue, TASK_DRAINING, TaskValue,
};

use crate::core::rows::Candidate;
use crate::tables::{EndpointEntry, NetworkEntry, PublishedEntry, Tables};

/// Contents of all maps but those of published ports.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    pub nodes: BTreeMap<u32, NodeValue>,
    pub peers: BTreeMap<Address, u32>,
    pub own_addresses: BTreeMap<Address, OwnAddressValue>,
    pub networks: BTreeMap<u32, NetworkValue>,
    pub endpoints: BTreeMap<EndpointKey, EndpointValue>,
    pub backends: BTreeMap<BackendKey, BackendValue>,
    pub sources: BTreeMap<SourceKey, SourceValue>,
    pub interfaces: BTreeMap<u32, InterfaceValue>,
}

/// `held`: endpoints as the map has them now. A task that left its service's list keeps its VIP as long as the endpoint
/// and the VIP exist, so that the flows it drains are still translated back. `macs`: of the interfaces of ingress addresses.
pub fn contents(
    tables: &Tables,
    held: &BTreeMap<EndpointKey, EndpointValue>,
    macs: &BTreeMap<u32, [u8; 6]>,
) -> Contents {
    let mut contents = Contents::default();
    for node in &tables.nodes {
        let underlay = address(node.underlay);
        contents.nodes.insert(
            node.index,
            NodeValue {
                underlay,
                spare: [0; 2],
            },
        );
        contents.peers.insert(underlay, node.index);
    }
    contents.own_addresses = own_addresses(tables, macs);
    contents.networks = tables.networks.iter().map(|n| (n.vni, network(n))).collect();
    add_endpoints(&mut contents, tables, held);
    contents
}

/// The holder of an ingress address has it on its interface: it stays the swarm's. Without a MAC address the interface is
/// not there, and the node cannot hold.
fn own_addresses(tables: &Tables, macs: &BTreeMap<u32, [u8; 6]>) -> BTreeMap<Address, OwnAddressValue> {
    let own = tables.uplinks.iter().flat_map(|uplink| {
        let value = OwnAddressValue {
            ifindex: uplink.ifindex,
            ..OwnAddressValue::default()
        };
        uplink.addresses.iter().map(move |a| (address(*a), value))
    });
    let ingress = tables.ingress.iter().map(|entry| {
        let (ifindex, mac) = macs
            .get(&entry.ifindex)
            .map_or((0, [0; 6]), |mac| (entry.ifindex, *mac));
        let dedicated = if entry.dedicated { OWN_DEDICATED } else { 0 };
        let value = OwnAddressValue {
            ifindex,
            flags: OWN_INGRESS | dedicated,
            mac,
            pad: 0,
        };
        (address(entry.address), value)
    });
    own.chain(ingress).collect()
}

fn add_endpoints(contents: &mut Contents, tables: &Tables, held: &BTreeMap<EndpointKey, EndpointValue>) {
    let serving: BTreeMap<EndpointKey, Address> = tables
        .services
        .iter()
        .flat_map(|s| s.backends.iter().map(|b| (key(s.vni, *b), address(s.vip))))
        .collect();
    let vips: BTreeMap<EndpointKey, ()> = tables.services.iter().map(|s| (key(s.vni, s.vip), ())).collect();
    let ingress = ingress_addresses(tables);
    for entry in &tables.endpoints {
        let endpoint = key(entry.vni, entry.address);
        let kept = held.get(&endpoint).map(|old| old.vip).filter(|vip| {
            vips.contains_key(&EndpointKey {
                network: entry.vni,
                address: *vip,
            })
        });
        let vip = serving.get(&endpoint).copied().or(kept).unwrap_or_default();
        let flags = if serving.contains_key(&endpoint) {
            ENDPOINT_SERVING
        } else {
            0
        };
        add_endpoint(contents, entry, endpoint, vip, flags);
        add_interface(contents, entry, &ingress);
    }
    for service in &tables.services {
        let vip = address(service.vip);
        // Sorted, so that the same set gives the same slots; a backend that is no endpoint yet cannot be reached.
        let mut backends: Vec<(Address, u32)> = service
            .backends
            .iter()
            .filter_map(|b| {
                contents
                    .endpoints
                    .get(&key(service.vni, *b))
                    .map(|e| (address(*b), e.node))
            })
            .collect();
        backends.sort_unstable();
        backends.dedup();
        let value = EndpointValue {
            kind: ENDPOINT_VIP,
            backends: backends.len() as u32,
            ..EndpointValue::default()
        };
        contents.endpoints.insert(key(service.vni, service.vip), value);
        contents
            .backends
            .extend(backends.into_iter().zip(0_u32..).map(|((address, node), slot)| {
                (
                    BackendKey {
                        network: service.vni,
                        slot,
                        vip,
                    },
                    BackendValue {
                        address,
                        node,
                        spare: 0,
                    },
                )
            }));
    }
}

fn add_endpoint(
    contents: &mut Contents,
    entry: &EndpointEntry,
    endpoint: EndpointKey,
    vip: Address,
    flags: u32,
) {
    let ifindex = entry.local.map_or(0, |l| l.ifindex);
    let value = EndpointValue {
        kind: ENDPOINT_CONTAINER,
        flags,
        node: entry.node,
        ifindex,
        backends: 0,
        spare: 0,
        vip,
    };
    contents.endpoints.insert(endpoint, value);
    if let Some(local) = entry.local {
        let container = local.container;
        let source = SourceKey {
            container,
            address: endpoint.address,
        };
        contents.sources.insert(
            source,
            SourceValue {
                network: entry.vni,
                vip,
            },
        );
    }
}

/// Network and address in which each container of this node receives mesh flows.
fn ingress_addresses(tables: &Tables) -> BTreeMap<u32, (u32, Address)> {
    let networks: Vec<u32> = tables
        .networks
        .iter()
        .filter(|n| n.ingress)
        .map(|n| n.vni)
        .collect();
    let local = tables
        .endpoints
        .iter()
        .filter_map(|e| e.local.map(|l| (l.container, e)));
    local
        .filter(|(_, e)| networks.contains(&e.vni))
        .map(|(c, e)| (c, (e.vni, address(e.address))))
        .collect()
}

fn add_interface(contents: &mut Contents, entry: &EndpointEntry, ingress: &BTreeMap<u32, (u32, Address)>) {
    let Some(local) = entry.local else { return };
    let (ingress_network, ingress) = ingress.get(&local.container).copied().unwrap_or_default();
    let value = InterfaceValue {
        container: local.container,
        network: entry.vni,
        ingress_network,
        spare: 0,
        ingress,
    };
    contents.interfaces.insert(local.ifindex, value);
}

fn network(entry: &NetworkEntry) -> NetworkValue {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    NetworkValue {
        subnet: address(entry.subnet.network()),
        mask: mask(entry.subnet),
        gateway: address(entry.gateway),
        mtu: entry.mtu,
        flags: flag(entry.internal, NETWORK_INTERNAL) | flag(entry.ingress, NETWORK_INGRESS),
    }
}

/// Tasks of a published port, sorted as rows count them, and what rows depend on.
pub fn published_tasks(entry: &PublishedEntry) -> (Vec<TaskValue>, Vec<Candidate>) {
    let mut tasks = entry.tasks.clone();
    tasks.sort_by_key(|t| (t.task_hash, address(t.address)));
    tasks.dedup_by_key(|t| t.task_hash);
    tasks
        .iter()
        .map(|t| {
            let flags = if t.draining { TASK_DRAINING } else { 0 };
            let candidate = Candidate {
                task_hash: t.task_hash,
                node: t.node,
                draining: t.draining,
            };
            (
                TaskValue {
                    address: address(t.address),
                    node: t.node,
                    flags,
                },
                candidate,
            )
        })
        .unzip()
}

/// The kernel's form of an address.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => Address::v4(u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(v6) => {
            let o = v6.octets();
            let word = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
            Address {
                words_be: [word(0), word(4), word(8), word(12)],
            }
        }
    }
}

fn mask(subnet: IpNet) -> Address {
    match (subnet, address(subnet.netmask())) {
        // The mapped prefix belongs to the subnet as a whole.
        (IpNet::V4(_), mask) => Address {
            words_be: [u32::MAX, u32::MAX, u32::MAX, mask.words_be[3]],
        },
        (IpNet::V6(_), mask) => mask,
    }
}

fn key(network: u32, ip: IpAddr) -> EndpointKey {
    EndpointKey {
        network,
        address: address(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{IngressEntry, LocalEndpoint, ServiceEntry, UplinkEntry};
    use std::net::Ipv4Addr;

    fn ip(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 1, last))
    }

    fn tables(backends: Vec<IpAddr>) -> Tables {
        let endpoint = |last: u8, local| EndpointEntry {
            vni: 4097,
            address: ip(last),
            node: 1,
            local,
        };
        Tables {
            endpoints: vec![
                endpoint(
                    3,
                    Some(LocalEndpoint {
                        ifindex: 7,
                        container: 9,
                    }),
                ),
                endpoint(4, None),
            ],
            services: vec![ServiceEntry {
                vni: 4097,
                vip: ip(2),
                backends,
            }],
            ..Tables::default()
        }
    }

    fn made(tables: &Tables, held: &BTreeMap<EndpointKey, EndpointValue>) -> Contents {
        contents(tables, held, &BTreeMap::new())
    }

    #[test]
    fn a_withdrawn_task_keeps_its_vip_while_it_drains() {
        let before = made(&tables(vec![ip(3), ip(4)]), &BTreeMap::new());
        assert_eq!(before.endpoints[&key(4097, ip(2))].backends, 2);
        let after = made(&tables(vec![ip(4)]), &before.endpoints);
        let endpoint = after.endpoints[&key(4097, ip(3))];
        assert_eq!((endpoint.vip, endpoint.flags), (address(ip(2)), 0));
        assert_eq!(after.sources.values().next().map(|s| s.vip), Some(address(ip(2))));
        let mut gone = tables(vec![]);
        gone.services.clear();
        assert!(
            made(&gone, &after.endpoints).endpoints[&key(4097, ip(3))]
                .vip
                .is_none()
        );
    }

    #[test]
    fn a_backend_without_an_endpoint_is_left_out() {
        let contents = made(&tables(vec![ip(3), ip(99)]), &BTreeMap::new());
        assert_eq!(contents.endpoints[&key(4097, ip(2))].backends, 1);
        assert_eq!(contents.backends.len(), 1);
    }

    #[test]
    fn addresses_keep_their_bytes() {
        assert_eq!(address(ip(7)).to_v4(), Some(u32::from_ne_bytes([10, 0, 1, 7])));
        let v6: IpAddr = "fd00::1".parse().expect("an address");
        assert_eq!(address(v6).to_v4(), None);
        assert_eq!(address(v6).words_be[0], 0xfd00_0000_u32.to_be());
    }

    #[test]
    fn an_ingress_address_stays_the_swarms_on_its_holder() {
        let all = Tables {
            uplinks: vec![UplinkEntry {
                ifindex: 2,
                addresses: vec![ip(1), ip(100)],
            }],
            ingress: vec![
                IngressEntry {
                    address: ip(100),
                    ifindex: 2,
                    dedicated: false,
                },
                IngressEntry {
                    address: ip(101),
                    ifindex: 9,
                    dedicated: true,
                },
            ],
            ..Tables::default()
        };
        let own = contents(&all, &BTreeMap::new(), &BTreeMap::from([(2, [7; 6])])).own_addresses;
        assert_eq!(own[&address(ip(1))].flags, 0);
        let shared = own[&address(ip(100))];
        assert_eq!(
            (shared.ifindex, shared.flags, shared.mac),
            (2, OWN_INGRESS, [7; 6])
        );
        let gone = own[&address(ip(101))];
        assert_eq!((gone.ifindex, gone.flags), (0, OWN_INGRESS | OWN_DEDICATED));
    }
}
