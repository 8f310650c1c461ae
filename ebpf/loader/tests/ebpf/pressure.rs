//! The flow tables under pressure: full, flooded, old, and counted.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use skep_ebpf_common::{Address, FIN, FLOW_MESH, FlowKey, FlowValue, LAYOUT, SEEN};
use skep_ebpf_loader::*;

use crate::lab::{CLIENT, Lab, node_address, uplink_mac};
use crate::packets::{Frame, SYN, TCP};
use crate::peers::*;

const PORT: u16 = 8080;

/// One node with a task behind a published port.
fn lab(max_flows: u32) -> Lab {
    let mut lab = Lab::with_flows(max_flows);
    lab.network(INGRESS, "10.255.0.0/24", true);
    lab.container(0, &[(INGRESS, ingress(10))]);
    lab.tables.published.push(PublishedEntry {
        protocol: Protocol::Tcp,
        published_port: PORT,
        target_port: 80,
        seed: 42,
        rows_log2: 6,
        algorithm: rows::ALGORITHM,
        ingress_vni: INGRESS,
        mode: IngressMode::Mesh,
        ingress_address: None,
        tasks: vec![PublishedTask {
            task_hash: 1,
            address: IpAddr::V4(ingress(10)),
            node: 1,
            draining: false,
        }],
    });
    lab.sync();
    lab
}

/// A client's end and the task's end of a connection.
type Pair = (TcpStream, TcpStream);

fn open(lab: &Lab, listener: &TcpListener) -> std::io::Result<Pair> {
    let mut stream = lab
        .client
        .run(|| TcpStream::connect_timeout(&(node_address(1), PORT).into(), PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"hello")?;
    // The reset of a connection that finds the table full follows its handshake at once.
    std::thread::sleep(Duration::from_millis(2));
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    let (mut served, _) = listener.accept()?;
    served.set_read_timeout(Some(PATIENCE))?;
    served.read_exact(&mut [0; 5])?;
    Ok((stream, served))
}

fn all_live(pairs: &mut [Pair]) {
    for (stream, served) in pairs {
        stream.write_all(b"ping").expect("send");
        let mut said = [0; 4];
        served.read_exact(&mut said).expect("the task hears");
        served.write_all(b"pong").expect("answer");
        stream.read_exact(&mut said).expect("the client hears");
    }
}

#[test]
fn established_flows_live_at_twice_the_limit_and_new_ones_are_refused() {
    const LIMIT: usize = 128;
    let mut lab = lab(LIMIT as u32);
    let listener = lab.containers[0]
        .space
        .run(|| TcpListener::bind("0.0.0.0:80"))
        .expect("listen");
    let mut pairs: Vec<Pair> = (0..LIMIT)
        .map(|at| open(&lab, &listener).unwrap_or_else(|error| panic!("{at}: {error}")))
        .collect();
    let usage = lab.nodes[0].with(|d| d.flow_tables()?.usage()).expect("usage");
    assert_eq!(
        (usage.established.used, usage.established.limit),
        (LIMIT as u64, LIMIT as u32)
    );
    for at in 0..LIMIT {
        let begin = Datapath::now().expect("a clock");
        let refused = lab.client.run(|| {
            let mut stream = TcpStream::connect_timeout(&(node_address(1), PORT).into(), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.read(&mut [0; 1])
        });
        let took = Datapath::now().expect("a clock") - begin;
        assert!(refused.is_err(), "{at} got a place: {refused:?}");
        assert!(took < Duration::from_millis(500), "{at} was told after {took:?}");
    }
    assert!(lab.nodes[0].drops(DropReason::FlowTableFull) >= LIMIT as u64);
    all_live(&mut pairs);
    // Closed ones make room without waiting for the collector.
    pairs.truncate(LIMIT / 2);
    std::thread::sleep(Duration::from_secs(2));
    // What the refused ones left in the listener's queue.
    listener.set_nonblocking(true).expect("no waiting");
    while listener.accept().is_ok() {}
    listener.set_nonblocking(false).expect("waiting");
    for at in 0..LIMIT / 2 {
        pairs.push(open(&lab, &listener).unwrap_or_else(|error| panic!("{at} after closing: {error}")));
    }
    all_live(&mut pairs);
}

/// The first packets of as many clients as there are calls.
fn flood(datapath: &mut Datapath, uplink: u32, number: u32) {
    let client = [198, 18, (number >> 16) as u8, (number >> 8) as u8];
    let frame = Frame {
        source_mac: [2, 0xbb, 0, 0, 0, 1],
        destination_mac: uplink_mac(1),
        protocol: TCP,
        source: client.into(),
        destination: node_address(1),
        source_port: 1024 + (number & 0xff) as u16,
        destination_port: PORT,
        flags: SYN,
        dont_fragment: true,
        payload: Vec::new(),
    };
    let bytes = frame.bytes();
    let packet = TestPacket {
        bytes: &bytes,
        ifindex: uplink,
        segment_size: 0,
        repeat: 1,
    };
    datapath.test_run(Program::Uplink, &packet).expect("run");
}

#[test]
fn a_flood_of_first_packets_costs_no_established_flow_and_few_new_ones() {
    let mut lab = lab(8192);
    let listener = lab.containers[0]
        .space
        .run(|| TcpListener::bind("0.0.0.0:80"))
        .expect("listen");
    let mut pairs: Vec<Pair> = (0..32).map(|_| open(&lab, &listener).expect("open")).collect();
    let over = AtomicBool::new(false);
    let Lab { nodes, client, .. } = &mut lab;
    let (node, client) = (&mut nodes[0], &*client);
    let (sent, (tried, opened)) = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let uplink = node.uplink;
            node.with(|datapath| {
                let mut sent = 0;
                while !over.load(Ordering::Relaxed) {
                    flood(datapath, uplink, sent);
                    sent += 1;
                }
                sent
            })
        });
        let mut opened = Vec::new();
        let mut tried = 0;
        let begin = Datapath::now().expect("a clock");
        while Datapath::now().expect("a clock") - begin < Duration::from_secs(2) {
            tried += 1;
            let connected =
                client.run(|| TcpStream::connect_timeout(&(node_address(1), PORT).into(), PATIENCE));
            opened.extend(connected);
        }
        over.store(true, Ordering::Relaxed);
        (flooding.join().expect("flood"), (tried, opened.len()))
    });
    println!("{sent} first packets in 2 s, {opened} of {tried} connections opened beside them");
    let usage = lab.nodes[0].with(|d| d.flow_tables()?.usage()).expect("usage");
    println!("{usage:?}");
    assert!(
        sent > 4 * u64::from(usage.half_open.limit) as u32,
        "no flood: {sent}"
    );
    assert!(usage.half_open.used <= u64::from(usage.half_open.limit));
    assert!(opened * 10 >= tried * 9, "{opened} of {tried}");
    all_live(&mut pairs);
}

fn flow(number: u32, forward: u8, reverse: u8, last_seen_s: u32) -> (FlowKey, FlowValue) {
    let client = u32::from_ne_bytes(CLIENT.octets());
    let key = FlowKey {
        network: INGRESS,
        protocol: 6,
        kind: FLOW_MESH,
        client: Address::v4(client.wrapping_add((number >> 12).to_be())),
        client_port_be: ((number & 0xfff) as u16 + 1024).to_be(),
        server_port_be: 80_u16.to_be(),
        ..FlowKey::default()
    };
    let value = FlowValue {
        forward,
        reverse,
        last_seen_s,
        ..FlowValue::default()
    };
    (key, value)
}

fn write(lab: &Lab, map: &str, flows: impl IntoIterator<Item = (FlowKey, FlowValue)>) {
    let path = lab.nodes[0].config.pin_dir.join(format!("v{LAYOUT}")).join(map);
    let data = MapData::from_pin(path).expect("pinned");
    let mut map: HashMap<MapData, FlowKey, FlowValue> = Map::HashMap(data).try_into().expect("typed");
    for (key, value) in flows {
        map.insert(key, value, 0).expect("insert");
    }
}

#[test]
fn idle_flows_live_as_long_as_their_state_says() {
    const HOUR: u64 = 3600;
    let mut lab = lab(8192);
    let now_s = Datapath::now().expect("a clock").as_secs();
    let stamp = now_s as u32;
    write(&lab, "FLOWS", [flow(1, SEEN, SEEN, stamp)]);
    let udp = |number, reverse| {
        let (key, value) = flow(number, SEEN, reverse, stamp);
        (FlowKey { protocol: 17, ..key }, value)
    };
    write(
        &lab,
        "HALF_OPEN",
        [
            flow(2, 0, SEEN, stamp),
            flow(3, SEEN | FIN, SEEN | FIN, stamp),
            udp(4, 0),
            udp(5, SEEN),
        ],
    );
    let tables = lab.nodes[0].with(|d| d.flow_tables()).expect("tables");
    // When, then how many are left of established and of half-open ones.
    for (later_s, established, half_open) in [
        (0, 1, 4),
        (11, 1, 3),
        (31, 1, 1),
        (121, 1, 0),
        (900, 1, 0),
        (24 * HOUR - 1, 1, 0),
        (24 * HOUR + 1, 0, 0),
    ] {
        let report = tables
            .collect(Duration::from_secs(now_s + later_s))
            .expect("collect");
        assert_eq!(
            (report.established, report.half_open),
            (established, half_open),
            "after {later_s} s"
        );
    }
}

/// Measures what [`BYTES_PER_FLOW`] says, and what reading a full table costs.
#[test]
fn a_flow_costs_as_many_bytes_as_the_sizes_say() {
    let mut lab = lab(max_flows(0));
    let tables = lab.nodes[0].with(|d| d.flow_tables()).expect("tables");
    let usage = tables.usage().expect("usage");
    let bytes = usage.established.bytes + usage.half_open.bytes;
    let each = bytes as f64 / f64::from(usage.established.limit);
    println!(
        "{} flows and {} half-open ones have {bytes} bytes: {each:.0} each",
        usage.established.limit, usage.half_open.limit
    );
    let said = BYTES_PER_FLOW as f64;
    assert!(
        (each - said).abs() < said * 0.15,
        "{each:.0} bytes, not {said:.0}"
    );

    let now = Datapath::now().expect("a clock");
    let stamp = now.as_secs() as u32;
    let count = usage.established.limit;
    write(
        &lab,
        "FLOWS",
        (0..count).map(|number| flow(number, SEEN, SEEN, stamp)),
    );
    let begin = Datapath::now().expect("a clock");
    assert_eq!(tables.usage().expect("usage").established.used, u64::from(count));
    let counted = Datapath::now().expect("a clock");
    let report = tables.collect(now).expect("collect");
    let kept = Datapath::now().expect("a clock");
    assert_eq!((report.established, report.expired), (u64::from(count), 0));
    let report = tables
        .collect(now + Duration::from_secs(25 * 3600))
        .expect("collect");
    let emptied = Datapath::now().expect("a clock");
    assert_eq!((report.established, report.expired), (0, u64::from(count)));
    println!(
        "{count} flows: counted in {:.0?}, looked through in {:.0?}, all removed in {:.0?}",
        counted - begin,
        kept - counted,
        emptied - kept
    );
}

#[test]
fn a_closed_flow_whose_tuple_comes_again_opens_anew() {
    let mut lab = lab(8192);
    serve(&lab.containers[0].space, 80, "task");
    for time in 0..6 {
        let said = ask_from(&lab.client, 40_000, node_address(1), PORT);
        assert_eq!(said.expect("published"), format!("task {CLIENT}"), "time {time}");
    }
    let usage = lab.nodes[0].with(|d| d.flow_tables()?.usage()).expect("usage");
    assert_eq!(
        (usage.established.used, usage.half_open.used),
        (0, 1),
        "{usage:?}"
    );
}
