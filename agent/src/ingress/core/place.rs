//! Where this node would carry an ingress address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use skep_control::model::{IngressAddressItem, ItemKind, Items};
use skep_ebpf_loader::IngressEntry;

use crate::network::core::links::{Link, NAME_PREFIX, Snapshot};

/// Index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;
/// So few observers are no majority of anything: see `docs/ingress.md`.
const PAIR: usize = 2;

/// One address as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub address: IpAddr,
    pub dedicated: bool,
    /// None: this node has no interface for it.
    pub interface: Option<Interface>,
    /// The swarm is too small for a majority, so a node that misses the other looks at its own connection.
    pub pair: bool,
}

/// The interface that an address belongs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    pub mac: [u8; 6],
    pub carrier: bool,
    /// The node's own address there, for its questions to the router.
    pub own: Option<Ipv4Addr>,
    /// Router of the default route that leads out of it.
    pub router: Option<Ipv4Addr>,
    /// The address's subnet, where no address of this node makes the kernel know the way to it.
    pub route: Option<Ipv4Net>,
}

/// By index of the lease.
pub type Places = BTreeMap<u32, Place>;

/// Places of all ingress addresses, and what is wrong with them here.
pub fn places(
    items: &Items,
    snapshot: &Snapshot,
    data_path_address: IpAddr,
    self_index: u32,
) -> (Places, Vec<String>) {
    let (mut places, mut problems) = (Places::new(), Vec::new());
    for item in addresses(items) {
        let Some((address, subnet)) = parse(&item.address) else {
            problems.push(format!("ingress address {:?} is not valid", item.address));
            continue;
        };
        let link = choose(item, subnet, snapshot, data_path_address);
        if link.is_none() && !item.interface.is_empty() && item.owners.contains(&self_index) {
            let name = &item.interface;
            problems.push(format!(
                "this node cannot hold ingress address {address}: it has no interface {name}"
            ));
        }
        let place = Place {
            address,
            dedicated: item.dedicated,
            interface: link.and_then(|link| interface(link, subnet, snapshot)),
            pair: item.observers.len() <= PAIR,
        };
        places.insert(item.index, place);
    }
    (places, problems)
}

/// What the data plane is told of them.
pub fn entries(places: &Places) -> Vec<IngressEntry> {
    let entries = places.values().map(|place| IngressEntry {
        address: place.address,
        ifindex: place.interface.as_ref().map_or(0, |interface| interface.index),
        dedicated: place.dedicated,
    });
    entries.collect()
}

/// The ingress addresses among the items.
pub fn addresses(items: &Items) -> impl Iterator<Item = &IngressAddressItem> {
    items.values().filter_map(|item| match &item.kind {
        Some(ItemKind::IngressAddress(address)) => Some(address),
        _ => None,
    })
}

/// With or without a prefix length.
fn parse(text: &str) -> Option<(IpAddr, IpNet)> {
    let subnet: IpNet = match text.parse() {
        Ok(subnet) => subnet,
        Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    Some((subnet.addr(), subnet))
}

/// The named one; else the one with an address of the same subnet; else the data path's.
fn choose<'a>(
    item: &IngressAddressItem,
    subnet: IpNet,
    snapshot: &'a Snapshot,
    data_path_address: IpAddr,
) -> Option<&'a Link> {
    if !item.interface.is_empty() {
        return snapshot.by_name(&item.interface);
    }
    let mut outside = snapshot
        .links
        .iter()
        .filter(|link| link.index != LOOPBACK && !link.name.starts_with(NAME_PREFIX));
    outside
        .find(|link| link.addresses.iter().any(|own| subnet.contains(own)))
        .or_else(|| snapshot.by_address(data_path_address))
}

/// None: it has no Ethernet address, so nothing could be announced on it.
fn interface(link: &Link, subnet: IpNet, snapshot: &Snapshot) -> Option<Interface> {
    let own = link.subnets.iter().find_map(|known| match known {
        IpNet::V4(known) if subnet.contains(&IpAddr::V4(known.addr())) => Some(known.addr()),
        _ => None,
    });
    let first = link.subnets.iter().find_map(|known| match known {
        IpNet::V4(known) => Some(known.addr()),
        IpNet::V6(_) => None,
    });
    let is_known = snapshot
        .links
        .iter()
        .flat_map(|link| &link.subnets)
        .any(|known| known.contains(&subnet.addr()));
    let route = match subnet {
        IpNet::V4(subnet) if !is_known && subnet.prefix_len() < 32 => Some(subnet.trunc()),
        _ => None,
    };
    Some(Interface {
        index: link.index,
        name: link.name.clone(),
        mac: link.mac.as_slice().try_into().ok()?,
        carrier: link.running,
        own: own.or(first),
        router: snapshot.routers.get(&link.index).copied(),
        route,
    })
}

#[cfg(test)]
mod tests {
    use skep_control::model::{Item, item_key};

    use super::*;

    fn link(index: u32, name: &str, subnets: &[&str]) -> Link {
        let subnets: Vec<IpNet> = subnets.iter().map(|subnet| subnet.parse().unwrap()).collect();
        Link {
            index,
            name: name.to_string(),
            mtu: 1500,
            up: true,
            running: true,
            mac: vec![2, 0, 0, 0, 0, index as u8],
            vxlan: None,
            addresses: subnets.iter().map(IpNet::addr).collect(),
            subnets,
        }
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            links: vec![
                link(1, "lo", &["127.0.0.1/8", "192.168.50.200/32"]),
                link(2, "eth0", &["10.0.0.1/24"]),
                link(3, "eth1", &["192.168.50.1/24"]),
                link(4, "eth2", &[]),
            ],
            routers: BTreeMap::from([(3, Ipv4Addr::new(192, 168, 50, 254))]),
            ..Snapshot::default()
        }
    }

    fn items(address: &str, interface: &str, observers: &[u32]) -> Items {
        let kind = ItemKind::IngressAddress(IngressAddressItem {
            id: "a".to_string(),
            index: 9,
            address: address.to_string(),
            interface: interface.to_string(),
            owners: vec![1],
            observers: observers.to_vec(),
            ..IngressAddressItem::default()
        });
        Items::from([(item_key(&kind), Item { kind: Some(kind) })])
    }

    fn place(address: &str, interface: &str) -> (Place, Vec<String>) {
        let items = items(address, interface, &[1, 2, 3]);
        let (mut places, problems) = places(&items, &snapshot(), IpAddr::from([10, 0, 0, 1]), 1);
        (places.remove(&9).unwrap(), problems)
    }

    #[test]
    fn the_interface_of_the_subnet_is_taken() {
        let (place, problems) = place("192.168.50.100/24", "");
        let interface = place.interface.unwrap();
        assert_eq!(problems, [""; 0]);
        assert_eq!(place.address, IpAddr::from([192, 168, 50, 100]));
        assert_eq!((interface.index, interface.route), (3, None));
        assert_eq!(interface.own, Some(Ipv4Addr::new(192, 168, 50, 1)));
        assert_eq!(interface.router, Some(Ipv4Addr::new(192, 168, 50, 254)));
    }

    #[test]
    fn an_unknown_subnet_goes_to_the_data_path_with_a_route() {
        let interface = place("172.20.0.9/16", "").0.interface.unwrap();
        assert_eq!(interface.name, "eth0");
        assert_eq!(interface.route, Some("172.20.0.0/16".parse().unwrap()));
        // A single address names no subnet.
        assert_eq!(place("172.20.0.9", "").0.interface.unwrap().route, None);
    }

    #[test]
    fn a_named_interface_wins_and_is_missed() {
        let interface = place("192.168.50.100/24", "eth2").0.interface.unwrap();
        assert_eq!((interface.index, interface.own), (4, None));
        // The way to the subnet leads by eth1; a second route would split it.
        assert_eq!(interface.route, None);
        let (missing, problems) = place("192.168.50.100/24", "eth7");
        assert_eq!(missing.interface, None);
        assert_eq!(
            problems,
            ["this node cannot hold ingress address 192.168.50.100: it has no interface eth7"]
        );
    }

    #[test]
    fn entries_say_where_the_address_is() {
        let snapshot = snapshot();
        let (places, _) = places(
            &items("192.168.50.100/24", "eth7", &[1, 2]),
            &snapshot,
            IpAddr::from([10, 0, 0, 1]),
            2,
        );
        assert!(places[&9].pair);
        let expected = IngressEntry {
            address: IpAddr::from([192, 168, 50, 100]),
            ifindex: 0,
            dedicated: false,
        };
        assert_eq!(entries(&places), [expected]);
    }
}
