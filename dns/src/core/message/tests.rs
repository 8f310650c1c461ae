//! Tests of the bytes: malformed input, size limits, and the properties of every reply.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::table::{Client, Zone};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

fn table(addresses: u8) -> Table {
    let all = (0..addresses)
        .map(|last| IpAddr::from(Ipv4Addr::new(10, 0, 1, last)))
        .collect();
    let zone = Zone {
        name: "app".into(),
        names: BTreeMap::from([("web".into(), all)]),
        reverse: BTreeMap::from([(CLIENT, "me".into())]),
    };
    let client = Client {
        networks: vec!["n".into()],
        internal_only: false,
    };
    Table {
        clients: BTreeMap::from([(CLIENT, client)]),
        networks: BTreeMap::from([("n".into(), zone)]),
    }
}

fn query(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

fn reply(step: Step) -> Message {
    match step {
        Step::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("no reply but {other:?}"),
    }
}

fn ask(table: &Table, message: &Message, transport: Transport) -> Message {
    reply(respond(table, CLIENT, &message.to_vec().unwrap(), transport, 0))
}

#[test]
fn an_address_comes_with_its_question_and_a_short_ttl() {
    let message = ask(&table(1), &query("WeB.", RecordType::A, None), Transport::Udp);
    assert_eq!(message.metadata.id, 4711);
    assert_eq!(message.queries[0].name().to_ascii(), "WeB.");
    assert_eq!(message.answers.len(), 1);
    assert_eq!(message.answers[0].ttl, TTL_S);
    assert_eq!(message.answers[0].data, RData::A(A(Ipv4Addr::new(10, 0, 1, 0))));
    assert!(message.metadata.recursion_available && message.edns.is_none());
}

#[test]
fn other_types_of_a_known_name_are_empty_but_no_error() {
    for kind in [RecordType::AAAA, RecordType::MX, RecordType::HTTPS] {
        let message = ask(&table(1), &query("web.", kind, Some(4096)), Transport::Udp);
        assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        assert!(message.answers.is_empty() && message.edns.is_some());
    }
}

#[test]
fn a_pointer_names_the_network() {
    let message = ask(
        &table(1),
        &query("1.0.0.10.in-addr.arpa.", RecordType::PTR, None),
        Transport::Udp,
    );
    let RData::PTR(PTR(name)) = &message.answers[0].data else {
        panic!("{message}")
    };
    assert_eq!(name.to_ascii(), "me.app.");
}

#[test]
fn a_large_answer_is_cut_to_the_clients_limit() {
    let table = table(200);
    for (payload, limit) in [
        (None, 512),
        (Some(100), 512),
        (Some(800), 800),
        (Some(4096), 1232),
    ] {
        let request = query("web.", RecordType::A, payload).to_vec().unwrap();
        let Step::Reply(bytes) = respond(&table, CLIENT, &request, Transport::Udp, 0) else {
            panic!("no reply");
        };
        assert!(bytes.len() <= limit, "{} > {limit}", bytes.len());
        let message = Message::from_vec(&bytes).unwrap();
        assert!(message.metadata.truncation);
        // What is left is worth having: at least two thirds of what would fit.
        assert!(
            message.answers.len() * 16 > limit * 2 / 3,
            "{} answers",
            message.answers.len()
        );
        assert_eq!(message.edns.is_some(), payload.is_some());
    }
    let message = ask(&table, &query("web.", RecordType::A, None), Transport::Tcp);
    assert!(!message.metadata.truncation);
    assert_eq!(message.answers.len(), 200);
}

#[test]
fn what_is_not_a_plain_query_gets_its_code() {
    let table = table(1);
    let mut update = query("web.", RecordType::A, None);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(
        ask(&table, &update, Transport::Udp).metadata.response_code,
        ResponseCode::NotImp
    );

    let mut chaos = query("version.bind.", RecordType::TXT, None);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(
        ask(&table, &chaos, Transport::Udp).metadata.response_code,
        ResponseCode::Refused
    );

    let mut future = query("web.", RecordType::A, Some(1232));
    future.edns.as_mut().unwrap().set_version(1);
    // 16, which is BADSIG in a signed message: the parser names it so.
    let code = u16::from(ask(&table, &future, Transport::Udp).metadata.response_code);
    assert_eq!(code, u16::from(ResponseCode::BADVERS));

    let mut two = query("web.", RecordType::A, None);
    two.add_query(two.queries[0].clone());
    assert_eq!(
        ask(&table, &two, Transport::Udp).metadata.response_code,
        ResponseCode::FormErr
    );

    let response = query("web.", RecordType::A, None)
        .into_response()
        .to_vec()
        .unwrap();
    assert!(matches!(
        respond(&table, CLIENT, &response, Transport::Udp, 0),
        Step::Ignore
    ));
}

#[test]
fn a_stranger_is_refused() {
    let bytes = query("web.", RecordType::A, None).to_vec().unwrap();
    let stranger = IpAddr::from(Ipv4Addr::new(10, 0, 0, 2));
    let message = reply(respond(&table(1), stranger, &bytes, Transport::Udp, 0));
    assert_eq!(message.metadata.response_code, ResponseCode::Refused);
    assert!(message.answers.is_empty());
}

#[test]
fn a_header_that_claims_65535_questions_is_malformed() {
    let mut bytes = query("web.", RecordType::A, None).to_vec().unwrap();
    bytes[4..6].copy_from_slice(&[0xff, 0xff]);
    let message = reply(respond(&table(1), CLIENT, &bytes, Transport::Udp, 0));
    assert_eq!(message.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(message.metadata.id, 4711);
}

#[test]
fn a_compression_loop_is_malformed() {
    let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend([0xc0, 12, 0, 1, 0, 1]);
    let message = reply(respond(&table(1), CLIENT, &bytes, Transport::Udp, 0));
    assert_eq!(message.metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn a_relayed_answer_keeps_the_clients_case_and_id() {
    let request = query("Example.COM.", RecordType::A, Some(1232)).to_vec().unwrap();
    let Step::Forward(request) = respond(&table(1), CLIENT, &request, Transport::Udp, 0) else {
        panic!("not forwarded");
    };
    let mut upstream = request
        .for_upstream(9, Name::from_ascii("eXAMPLE.com.").unwrap())
        .into_response();
    let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 1)));
    upstream.add_answer(Record::from_rdata(
        Name::from_ascii("eXAMPLE.com.").unwrap(),
        60,
        data,
    ));
    let message = Message::from_vec(&request.relay(&upstream)).unwrap();
    assert_eq!(message.metadata.id, 4711);
    assert_eq!(message.queries[0].name().to_ascii(), "Example.COM.");
    assert_eq!(message.answers[0].name.to_ascii(), "Example.COM.");
    assert_eq!(message.answers[0].ttl, 60);
}

/// A valid query with some bytes changed: gets further than noise does.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(RecordType::A), Just(RecordType::PTR), Just(RecordType::ANY)];
    let name = "([a-z0-9_]{1,20}\\.){0,5}";
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (name, kind, proptest::option::of(any::<u16>()), changes).prop_map(|(name, kind, payload, changes)| {
        let name = if name.is_empty() { ".".to_owned() } else { name };
        let mut bytes = query(&name, kind, payload).to_vec().unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_get_a_fitting_reply_or_none(
        bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..600), damaged()],
        udp: bool, turn: u64,
    ) {
        let transport = if udp { Transport::Udp } else { Transport::Tcp };
        match respond(&table(120), CLIENT, &bytes, transport, turn) {
            Step::Ignore => prop_assert!(bytes.len() < HEADER_LEN || bytes[2] & 0x80 != 0),
            Step::Reply(reply) => {
                prop_assert_eq!(&reply[..2], &bytes[..2]);
                prop_assert!(reply[2] & 0x80 != 0, "a reply is marked as one");
                prop_assert!(!udp || reply.len() <= usize::from(UDP_PAYLOAD));
                prop_assert!(Message::from_vec(&reply).is_ok());
            }
            Step::Forward(request) => {
                let question = request.for_upstream(1, request.query().name().clone());
                prop_assert!(question.to_vec().is_ok());
                let failure = request.refuse(ResponseCode::ServFail);
                prop_assert_eq!(&failure[..2], &bytes[..2]);
            }
        }
    }
}
