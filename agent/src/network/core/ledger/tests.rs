//! Tests of the driver's ledger.

use super::*;
use skep_control::model::{AttachmentItem, TaskItem, item_key};

const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 53);

fn create_network(id: &str, vni: &str, internal: bool) -> wire::CreateNetwork {
    serde_json::from_value(serde_json::json!({
        "NetworkID": id,
        "Options": {
            "com.docker.network.generic": { NETWORK_OPTION: format!("swarm-{id}"), VNI_OPTION: vni },
            "com.docker.network.internal": internal,
        },
        "IPv4Data": [{ "Pool": "10.0.1.0/24", "Gateway": "10.0.1.1/24" }],
    }))
    .unwrap()
}

fn create_endpoint(network: &str, endpoint: &str, address: &str) -> wire::CreateEndpoint {
    wire::CreateEndpoint {
        network_id: network.to_string(),
        endpoint_id: endpoint.to_string(),
        interface: Some(wire::Interface {
            address: address.to_string(),
            ..Default::default()
        }),
    }
}

fn join(network: &str, endpoint: &str, sandbox: &str) -> wire::Join {
    wire::Join {
        network_id: network.to_string(),
        endpoint_id: endpoint.to_string(),
        sandbox_key: sandbox.to_string(),
    }
}

/// A task with two addresses on two networks, and an attachment.
fn items() -> Items {
    let on = |network: &str, address: &str| NetworkAttachment {
        network_id: network.to_string(),
        addresses: vec![address.to_string()],
        aliases: Vec::new(),
    };
    let task = TaskItem {
        id: "t1".to_string(),
        networks: vec![on("swarm-n1", "10.0.1.3/24"), on("swarm-n2", "10.0.1.4/24")],
        ..Default::default()
    };
    let attachment = AttachmentItem {
        id: "a1".to_string(),
        network: on("swarm-n1", "10.0.1.9/24"),
        container_id: String::new(),
    };
    [ItemKind::Task(task), ItemKind::Attachment(attachment)]
        .into_iter()
        .map(|kind| (item_key(&kind), Item { kind: Some(kind) }))
        .collect()
}

fn ledger() -> DriverLedger {
    let mut ledger = DriverLedger::default();
    ledger
        .create_network(&create_network("n1", "4097", false))
        .unwrap();
    ledger
        .create_network(&create_network("n2", "4098", true))
        .unwrap();
    ledger
}

#[test]
fn only_twins_become_networks() {
    let mut request = create_network("n1", "4097", false);
    request.options = None;
    assert_eq!(
        DriverLedger::default().create_network(&request),
        Err(Refusal::NotATwin)
    );
    let refused = DriverLedger::default().create_network(&create_network("n1", "x", false));
    assert!(matches!(refused, Err(Refusal::BadOption { what: "VNI", .. })));
}

#[test]
fn only_assigned_addresses_become_endpoints() {
    let mut ledger = ledger();
    let created = ledger
        .create_endpoint(&items(), &create_endpoint("n1", "e1", "10.0.1.3/24"))
        .unwrap();
    assert_eq!(created.interface.mac_address, "02:42:0a:00:01:03");
    assert_eq!(created.interface.address, "");
    ledger
        .create_endpoint(&items(), &create_endpoint("n1", "e2", "10.0.1.9/24"))
        .unwrap();
    for (network, address) in [("n1", "10.0.1.77/24"), ("n2", "10.0.1.3/24"), ("n1", "")] {
        let refused = ledger.create_endpoint(&items(), &create_endpoint(network, "e3", address));
        assert!(
            matches!(refused, Err(Refusal::NotAssigned { .. })),
            "{network} {address}: {refused:?}"
        );
    }
    let refused = ledger.create_endpoint(&items(), &create_endpoint("n9", "e3", "10.0.1.3/24"));
    assert_eq!(refused, Err(Refusal::UnknownNetwork("n9".to_string())));
}

#[test]
fn an_address_in_use_is_refused_and_a_left_one_given_again() {
    let mut ledger = ledger();
    ledger
        .create_endpoint(&items(), &create_endpoint("n1", "e1", "10.0.1.3/24"))
        .unwrap();
    ledger.join(&join("n1", "e1", "/s1"), RESOLVER).unwrap();
    ledger.plugged("e1", 7);
    let again = create_endpoint("n1", "e2", "10.0.1.3/24");
    assert!(matches!(
        ledger.create_endpoint(&items(), &again),
        Err(Refusal::InUse { .. })
    ));
    assert!(ledger.prune(|_, index| index != 7));
    ledger.create_endpoint(&items(), &again).unwrap();
    assert!(!ledger.endpoints.contains_key("e1"));
}

#[test]
fn endpoints_of_a_container_share_its_number_and_one_resolver_route() {
    let mut ledger = ledger();
    ledger
        .create_endpoint(&items(), &create_endpoint("n1", "e1", "10.0.1.3/24"))
        .unwrap();
    ledger
        .create_endpoint(&items(), &create_endpoint("n2", "e2", "10.0.1.4/24"))
        .unwrap();
    ledger
        .create_endpoint(&items(), &create_endpoint("n1", "e3", "10.0.1.9/24"))
        .unwrap();
    let first = ledger.join(&join("n1", "e1", "/s1"), RESOLVER).unwrap();
    let second = ledger.join(&join("n2", "e2", "/s1"), RESOLVER).unwrap();
    ledger.join(&join("n1", "e3", "/s2"), RESOLVER).unwrap();
    assert_eq!(first.answer.static_routes[0].destination, "169.254.1.53/32");
    assert!(second.answer.static_routes.is_empty());
    assert_eq!(first.answer.gateway, "10.0.1.1");
    assert!(second.answer.gateway.is_empty() && second.answer.disable_gateway_service);
    assert!(ledger.locals().is_empty(), "no veth yet");
    for (index, id) in ["e1", "e2", "e3"].into_iter().enumerate() {
        ledger.plugged(id, 10 + index as u32);
    }
    let locals = ledger.locals();
    assert_eq!(locals["e1"].container, locals["e2"].container);
    assert_ne!(locals["e1"].container, locals["e3"].container);
    assert_eq!((locals["e2"].vni, locals["e2"].ifindex), (4098, 11));
}

#[test]
fn names_of_interfaces_fit() {
    let mut ledger = ledger();
    let id = "f".repeat(64);
    ledger
        .create_endpoint(&items(), &create_endpoint("n1", &id, "10.0.1.3/24"))
        .unwrap();
    let plan = ledger.join(&join("n1", &id, "/s1"), RESOLVER).unwrap();
    // IFNAMSIZ is 16 with the NUL.
    assert!(plan.host_name.len() < 16 && plan.container_name.len() < 16);
    assert_ne!(plan.host_name, plan.container_name);
}

#[test]
fn what_is_left_or_deleted_is_forgotten() {
    let mut ledger = ledger();
    ledger
        .create_endpoint(&items(), &create_endpoint("n1", "e1", "10.0.1.3/24"))
        .unwrap();
    let plan = ledger.join(&join("n1", "e1", "/s1"), RESOLVER).unwrap();
    ledger.plugged("e1", 7);
    assert_eq!(ledger.leave("e1"), Some(plan.host_name));
    assert_eq!(ledger.leave("e1"), None);
    assert!(ledger.locals().is_empty());
    assert_eq!(ledger.delete_endpoint("e1"), None);
    ledger.delete_network("n1");
    assert_eq!(ledger.twin_ids().into_keys().collect::<Vec<_>>(), ["n2"]);
}
