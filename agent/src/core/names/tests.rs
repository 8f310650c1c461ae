//! Tests of the table: what each kind of item adds, seen by asking.

use std::collections::BTreeSet;

use proptest::prelude::*;
use skep_control::model::{AttachmentItem, Item, TaskItem, item_key};
use skep_dns::core::answer::{Answer, Kind, Question, answer};

use super::*;

fn network(id: &str) -> ItemKind {
    let (internal, ingress) = (id.starts_with("internal"), id == "ingress");
    let network_id = id.to_string();
    ItemKind::Network(NetworkItem {
        network_id,
        name: format!("{id}-name"),
        internal,
        ingress,
        ..Default::default()
    })
}

fn service(id: &str, network: &str, vip: &str, aliases: &[&str]) -> ItemKind {
    ItemKind::Service(ServiceItem {
        service_id: id.into(),
        network_id: network.into(),
        name: format!("shop_{id}"),
        vip: vip.into(),
        aliases: aliases.iter().map(|alias| (*alias).into()).collect(),
    })
}

fn endpoint(id: &str, network: &str, service: &str, address: &str) -> EndpointItem {
    EndpointItem {
        id: id.into(),
        network_id: network.into(),
        service_id: service.into(),
        address: address.into(),
        names: vec![format!("Box.{id}"), format!("short{id}")],
        ..Default::default()
    }
}

fn attached(network: &str, address: &str) -> NetworkAttachment {
    NetworkAttachment {
        network_id: network.into(),
        addresses: vec![address.into()],
        aliases: vec![],
    }
}

fn task(id: &str, state: TaskState, networks: Vec<NetworkAttachment>) -> ItemKind {
    ItemKind::Task(TaskItem {
        id: id.into(),
        observed_state: state as i32,
        networks,
        ..Default::default()
    })
}

fn attachment(id: &str, container: &str, network: NetworkAttachment) -> ItemKind {
    ItemKind::Attachment(AttachmentItem {
        id: id.into(),
        network,
        container_id: container.into(),
    })
}

fn items(kinds: impl IntoIterator<Item = ItemKind>) -> Items {
    kinds
        .into_iter()
        .map(|kind| (item_key(&kind), Item { kind: Some(kind) }))
        .collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ask(table: &Table, from: &str, name: &str) -> Answer {
    answer(
        table,
        ip(from),
        &Question::Name {
            name: name.into(),
            kind: Kind::A,
        },
        0,
    )
}

fn found(table: &Table, from: &str, name: &str) -> BTreeSet<String> {
    match ask(table, from, name) {
        Answer::Addresses(all) => all.iter().map(ToString::to_string).collect(),
        other => panic!("{name}: {other:?}"),
    }
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_string()).collect()
}

/// Service `web` with a VIP and two tasks, one more draining; service `db` without a VIP; one local task that
/// asks, 10.0.1.9.
fn app() -> Items {
    let draining = EndpointItem {
        draining: true,
        ..endpoint("w3", "app", "web", "10.0.1.5")
    };
    items([
        network("app"),
        service("web", "app", "10.0.1.2", &["web", "WWW"]),
        ItemKind::Endpoint(endpoint("w1", "app", "web", "10.0.1.3")),
        ItemKind::Endpoint(endpoint("w2", "app", "web", "10.0.1.4/24")),
        ItemKind::Endpoint(draining),
        service("db", "app", "", &[]),
        ItemKind::Endpoint(endpoint("d1", "app", "db", "10.0.1.6")),
        ItemKind::Endpoint(endpoint("d2", "app", "db", "10.0.1.7")),
        service("gone", "app", "", &[]),
        task("me", TaskState::Starting, vec![attached("app", "10.0.1.9/24")]),
    ])
}

#[test]
fn a_service_and_its_aliases_are_the_vip_and_tasks_are_the_tasks() {
    let table = table(&app(), &[]);
    for name in ["shop_web", "web", "www", "web.app-name", "Shop_Web"] {
        assert_eq!(found(&table, "10.0.1.9", name), set(&["10.0.1.2"]), "{name}");
    }
    for name in ["tasks.shop_web", "tasks.web", "tasks.www"] {
        assert_eq!(
            found(&table, "10.0.1.9", name),
            set(&["10.0.1.3", "10.0.1.4"]),
            "{name}"
        );
    }
}

#[test]
fn without_a_vip_the_name_is_the_tasks() {
    let table = table(&app(), &[]);
    assert_eq!(
        found(&table, "10.0.1.9", "shop_db"),
        set(&["10.0.1.6", "10.0.1.7"])
    );
    assert_eq!(
        ask(&table, "10.0.1.9", "shop_gone"),
        Answer::NoData,
        "known, but nobody is there"
    );
}

#[test]
fn a_container_has_its_names_until_it_drains_and_addresses_have_names() {
    let table = table(&app(), &[]);
    assert_eq!(found(&table, "10.0.1.9", "box.w1"), set(&["10.0.1.3"]));
    assert_eq!(found(&table, "10.0.1.9", "shortw1"), set(&["10.0.1.3"]));
    assert_eq!(ask(&table, "10.0.1.9", "box.w3"), Answer::Forward);
    let reverse = |address: &str| answer(&table, ip("10.0.1.9"), &Question::Reverse(ip(address)), 0);
    assert_eq!(reverse("10.0.1.3"), Answer::Name("Box.w1.app-name".into()));
    assert_eq!(reverse("10.0.1.2"), Answer::Name("shop_web.app-name".into()));
}

#[test]
fn only_local_and_living_containers_are_clients() {
    let mut kinds = vec![
        network("app"),
        task("old", TaskState::Failed, vec![attached("app", "10.0.1.8/24")]),
    ];
    kinds.push(ItemKind::Endpoint(endpoint("w1", "app", "web", "10.0.1.3")));
    let table = table(&items(kinds), &[ip("172.30.0.2")]);
    assert_eq!(ask(&table, "10.0.1.8", "x"), Answer::Refused, "ended");
    assert_eq!(ask(&table, "10.0.1.3", "x"), Answer::Refused, "of another node");
    assert_eq!(ask(&table, "172.30.0.2", "x"), Answer::Forward, "on no overlay");
}

#[test]
fn ingress_has_no_names_but_its_addresses_may_ask() {
    let networks = vec![
        attached("ingress", "10.255.0.5/16"),
        attached("internal", "10.0.3.3/24"),
    ];
    let table = table(
        &items([
            network("ingress"),
            network("internal"),
            service("web", "ingress", "10.255.0.2", &["web"]),
            service("db", "internal", "10.0.3.2", &["db"]),
            task("me", TaskState::Running, networks),
        ]),
        &[],
    );
    for from in ["10.255.0.5", "10.0.3.3"] {
        assert_eq!(found(&table, from, "db"), set(&["10.0.3.2"]));
        assert_eq!(ask(&table, from, "web"), Answer::Forward);
    }
}

#[test]
fn internal_networks_alone_never_forward() {
    let clients = [
        attachment("a1", "c1", attached("internal", "10.0.3.3/24")),
        attachment("a2", "c2", attached("internal", "10.0.3.4/24")),
        attachment("a3", "c2", attached("app", "10.0.1.4/24")),
        attachment("a4", "c3", attached("unknown", "10.0.9.4/24")),
    ];
    let table = table(
        &items([network("app"), network("internal")].into_iter().chain(clients)),
        &[],
    );
    assert_eq!(ask(&table, "10.0.3.3", "example.com"), Answer::NxDomain);
    assert_eq!(
        ask(&table, "10.0.3.4", "example.com"),
        Answer::Forward,
        "the same container is on app too"
    );
    assert_eq!(
        ask(&table, "10.0.9.4", "example.com"),
        Answer::NxDomain,
        "not known yet"
    );
}

proptest! {
    #[test]
    fn no_client_sees_a_network_it_is_not_on(
        placed in proptest::collection::vec((0u8..3, 0u8..3, any::<bool>()), 0..12), on in 0u8..3,
    ) {
        let networks = ["n0", "n1", "n2"];
        let mut kinds: Vec<ItemKind> = networks.into_iter().map(network).collect();
        for (number, (net, svc, draining)) in placed.iter().enumerate() {
            let net_id = networks[usize::from(*net)];
            kinds.push(service(&format!("s{svc}"), net_id, "", &["alias"]));
            let address = format!("10.0.{net}.{}", number + 10);
            let endpoint = endpoint(&format!("e{number}"), net_id, &format!("s{svc}"), &address);
            kinds.push(ItemKind::Endpoint(EndpointItem { draining: *draining, ..endpoint }));
        }
        let own = format!("10.0.{on}.2");
        kinds.push(task("me", TaskState::Running, vec![attached(networks[usize::from(on)], &own)]));
        let table = table(&items(kinds), &[]);
        for name in ["alias", "tasks.alias", "shop_s0", "shop_s1", "tasks.shop_s2"] {
            if let Answer::Addresses(all) = ask(&table, &own, name) {
                let prefix = format!("10.0.{on}.");
                prop_assert!(all.iter().all(|address| address.to_string().starts_with(&prefix)));
            }
        }
        for (number, (net, _, draining)) in placed.iter().enumerate() {
            let visible = matches!(ask(&table, &own, &format!("box.e{number}")), Answer::Addresses(_));
            prop_assert_eq!(visible, *net == on && !draining);
        }
    }
}
