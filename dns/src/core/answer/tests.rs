//! Tests of the look-up rules, and the properties that hold for every table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn zone(name: &str, names: &[(&str, &[&str])], reverse: &[(&str, &str)]) -> Zone {
    Zone {
        name: name.into(),
        names: names
            .iter()
            .map(|(name, addresses)| ((*name).into(), addresses.iter().map(|text| ip(text)).collect()))
            .collect(),
        reverse: reverse
            .iter()
            .map(|(address, name)| (ip(address), (*name).into()))
            .collect(),
    }
}

fn client(networks: &[&str], internal_only: bool) -> Client {
    Client {
        networks: networks.iter().map(|id| (*id).into()).collect(),
        internal_only,
    }
}

fn table() -> Table {
    let app = zone(
        "app",
        &[
            ("web", &["10.0.1.2"]),
            ("tasks.web", &["10.0.1.3", "10.0.1.4", "10.0.1.5", "10.0.1.6"]),
            ("both", &["10.0.1.9", "fd00::9"]),
            ("idle", &[]),
        ],
        &[("10.0.1.3", "web.1.abc")],
    );
    let back = zone("back.end", &[("web", &["10.0.2.2"]), ("db", &["10.0.2.3"])], &[]);
    Table {
        clients: BTreeMap::from([
            (ip("10.0.1.3"), client(&["a", "b"], false)),
            (ip("10.0.2.7"), client(&["b"], true)),
        ]),
        networks: BTreeMap::from([("a".into(), app), ("b".into(), back)]),
    }
}

fn ask(from: &str, name: &str, kind: Kind) -> Answer {
    answer(
        &table(),
        ip(from),
        &Question::Name {
            name: name.into(),
            kind,
        },
        0,
    )
}

fn addresses(texts: &[&str]) -> Answer {
    Answer::Addresses(texts.iter().map(|text| ip(text)).collect())
}

#[test]
fn the_first_network_of_the_client_wins() {
    assert_eq!(ask("10.0.1.3", "WEB", Kind::A), addresses(&["10.0.1.2"]));
    assert_eq!(ask("10.0.2.7", "web", Kind::A), addresses(&["10.0.2.2"]));
}

#[test]
fn a_network_may_be_named_and_may_have_dots() {
    assert_eq!(ask("10.0.1.3", "web.App", Kind::A), addresses(&["10.0.1.2"]));
    assert_eq!(ask("10.0.1.3", "web.back.end", Kind::A), addresses(&["10.0.2.2"]));
    assert_eq!(ask("10.0.1.3", "web.end", Kind::A), Answer::Forward);
    assert_eq!(ask("10.0.2.7", "web.app", Kind::A), Answer::NxDomain);
}

#[test]
fn another_networks_names_are_invisible() {
    assert_eq!(ask("10.0.2.7", "tasks.web", Kind::A), Answer::NxDomain);
    assert_eq!(ask("10.0.1.3", "db", Kind::A), addresses(&["10.0.2.3"]));
}

#[test]
fn a_known_name_without_the_family_is_no_data() {
    assert_eq!(ask("10.0.1.3", "web", Kind::Aaaa), Answer::NoData);
    assert_eq!(ask("10.0.1.3", "both", Kind::Aaaa), addresses(&["fd00::9"]));
    assert_eq!(ask("10.0.1.3", "idle", Kind::A), Answer::NoData);
    assert_eq!(ask("10.0.1.3", "web", Kind::Other), Answer::NoData);
}

#[test]
fn strangers_are_refused_and_only_outward_clients_forward() {
    assert_eq!(ask("10.9.9.9", "web", Kind::A), Answer::Refused);
    assert_eq!(ask("10.0.1.3", "example.com", Kind::A), Answer::Forward);
    assert_eq!(ask("10.0.2.7", "example.com", Kind::A), Answer::NxDomain);
}

#[test]
fn an_ipv4_mapped_client_is_the_ipv4_client() {
    assert_eq!(ask("::ffff:10.0.1.3", "web", Kind::A), addresses(&["10.0.1.2"]));
}

#[test]
fn an_address_has_its_name_in_the_clients_networks_only() {
    let question = Question::Reverse(ip("10.0.1.3"));
    assert_eq!(
        answer(&table(), ip("10.0.1.3"), &question, 0),
        Answer::Name("web.1.abc.app".into())
    );
    assert_eq!(answer(&table(), ip("10.0.2.7"), &question, 0), Answer::NxDomain);
}

#[test]
fn every_task_comes_first_about_equally_often() {
    let mut first: BTreeMap<IpAddr, usize> = BTreeMap::new();
    // Even turns only: a resolver that always asks for A and AAAA together sees no others.
    for turn in (0..4000).step_by(2) {
        let question = Question::Name {
            name: "tasks.web".into(),
            kind: Kind::A,
        };
        let Answer::Addresses(all) = answer(&table(), ip("10.0.1.3"), &question, turn) else {
            panic!("no addresses");
        };
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 4);
        *first.entry(all[0]).or_default() += 1;
    }
    assert_eq!(first.len(), 4);
    assert!(
        first.values().all(|count| (400..600).contains(count)),
        "{first:?}"
    );
}

fn any_table() -> impl Strategy<Value = Table> {
    let address = (0u8..6, any::<bool>()).prop_map(|(last, v6)| {
        if v6 {
            IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)))
        } else {
            IpAddr::from(Ipv4Addr::new(10, 0, 0, last))
        }
    });
    let names = proptest::collection::btree_map(
        "[ab](\\.[abn])?",
        proptest::collection::vec(address.clone(), 0..4),
        0..5,
    );
    let reverse = proptest::collection::btree_map(address.clone(), "[ab]{1,2}", 0..3);
    let zone = ("[n][ab]?", names, reverse).prop_map(|(name, names, reverse)| Zone { name, names, reverse });
    let client =
        (proptest::collection::vec("[0-3]", 0..3), any::<bool>()).prop_map(|(networks, internal_only)| {
            Client {
                networks,
                internal_only,
            }
        });
    (
        proptest::collection::btree_map(address, client, 0..4),
        proptest::collection::btree_map("[0-3]", zone, 0..4),
    )
        .prop_map(|(clients, networks)| Table { clients, networks })
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::A),
        Just(Kind::Aaaa),
        Just(Kind::Any),
        Just(Kind::Other)
    ]
}

proptest! {
    #[test]
    fn only_what_the_clients_networks_hold(
        table in any_table(), name in "[abn](\\.[abn]){0,3}", kind in any_kind(), last in 0u8..6, turn: u64,
    ) {
        let from = IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
        let got = answer(&table, from, &Question::Name { name: name.clone(), kind }, turn);
        match (table.clients.get(&from), got) {
            (None, got) => prop_assert_eq!(got, Answer::Refused),
            (Some(client), Answer::Addresses(got)) => {
                prop_assert!(!got.is_empty());
                let visible: BTreeSet<IpAddr> = client.networks.iter()
                    .filter_map(|id| table.networks.get(id))
                    .flat_map(|zone| zone.names.iter().filter_map(|(known, all)| {
                        let full = format!("{known}.{}", zone.name);
                        (*known == name || full == name).then_some(all)
                    }))
                    .flatten().copied().collect();
                prop_assert!(got.iter().all(|address| visible.contains(address)));
                prop_assert!(got.iter().all(|address| fits(kind, address)));
            }
            (Some(client), Answer::Forward) => prop_assert!(!client.internal_only),
            (Some(client), Answer::NxDomain) => prop_assert!(client.internal_only),
            (Some(_), got) => prop_assert_eq!(got, Answer::NoData),
        }
    }

    #[test]
    fn case_makes_no_difference(
        table in any_table(), name in "[abn](\\.[abn]){0,3}", kind in any_kind(), last in 0u8..6, turn: u64,
    ) {
        let from = IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
        let upper = Question::Name { name: name.to_uppercase(), kind };
        let lower = Question::Name { name, kind };
        prop_assert_eq!(answer(&table, from, &upper, turn), answer(&table, from, &lower, turn));
    }

    #[test]
    fn any_name_at_all_is_answered(table in any_table(), name in ".*", kind in any_kind(), turn: u64) {
        for client in table.clients.keys() {
            answer(&table, *client, &Question::Name { name: name.clone(), kind }, turn);
        }
    }
}
