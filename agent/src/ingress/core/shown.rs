//! What `skep ingress ls` shows of the addresses, as this node sees them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use skep_control::model::{ItemKind, Items};

use crate::ingress::core::place::{Places, addresses};
use crate::probe::Held;

/// One object per address, sorted by address as it was given.
pub fn shown(items: &Items, places: &Places, held: &BTreeMap<u32, Held>) -> Vec<Value> {
    let name = |node: u32| node_name(items, node).unwrap_or_else(|| format!("node {node}"));
    let mut rows: Vec<(String, Value)> = addresses(items)
        .map(|item| {
            let place = places.get(&item.index);
            let interface = place.and_then(|place| place.interface.as_ref());
            let held = held.get(&item.index);
            let row = json!({
                "address": item.address,
                "holder": held.and_then(|held| held.holder).map(name),
                "since": held.and_then(since),
                "reason": held.map(|held| held.reason.text(name)),
                "previous": held.and_then(|held| held.previous).map(name),
                "interface": interface.map_or(item.interface.as_str(), |interface| &interface.name),
                "owners": item.owners.iter().copied().map(name).collect::<Vec<_>>(),
                "epoch": item.epoch,
            });
            (item.address.clone(), row)
        })
        .collect();
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// RFC 3339.
fn since(held: &Held) -> Option<String> {
    let at = i64::try_from(held.since_unix_ms).ok()?;
    Some(Timestamp::from_millisecond(at).ok()?.to_string())
}

/// Hostname of a node.
pub fn node_name(items: &Items, node: u32) -> Option<String> {
    items.values().find_map(|item| match &item.kind {
        Some(ItemKind::Peer(peer)) if peer.index == node => Some(peer.hostname.clone()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use skep_control::model::{IngressAddressItem, Item, PeerItem, item_key};

    use super::*;
    use crate::probe::Reason;

    fn items() -> Items {
        let peer = |index: u32| {
            ItemKind::Peer(PeerItem {
                node_id: format!("id{index}"),
                index,
                hostname: format!("host{index}"),
                ..PeerItem::default()
            })
        };
        let address = |id: &str, index, address: &str| {
            ItemKind::IngressAddress(IngressAddressItem {
                id: id.to_string(),
                index,
                address: address.to_string(),
                interface: "eth1".to_string(),
                epoch: 4,
                owners: vec![2, 1],
                ..IngressAddressItem::default()
            })
        };
        let kinds = [
            peer(1),
            peer(2),
            address("a", 9, "192.168.50.101/24"),
            address("b", 8, "192.168.50.100/24"),
        ];
        kinds
            .into_iter()
            .map(|kind| (item_key(&kind), Item { kind: Some(kind) }))
            .collect()
    }

    #[test]
    fn holders_are_named_and_unknown_ones_left_open() {
        let held = Held {
            holder: Some(2),
            since_unix_ms: 1_700_000_000_123,
            previous: Some(3),
            reason: Reason::LeaseEnded(3),
        };
        let rows = shown(&items(), &Places::new(), &BTreeMap::from([(9, held)]));
        let expected = json!([
            {
                "address": "192.168.50.100/24", "holder": null, "since": null, "reason": null, "previous": null,
                "interface": "eth1", "owners": ["host2", "host1"], "epoch": 4,
            },
            {
                "address": "192.168.50.101/24", "holder": "host2", "since": "2023-11-14T22:13:20.123Z",
                "reason": "lease of node 3 ended", "previous": "node 3",
                "interface": "eth1", "owners": ["host2", "host1"], "epoch": 4,
            },
        ]);
        assert_eq!(Value::from(rows), expected);
    }
}
