//! Many connections through an ingress address while the service is scaled, nodes follow one by one, and the entry moves.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use skep_ebpf_common::{LAYOUT, PublishedKey, PublishedValue};
use skep_ebpf_loader::*;

use crate::lab::Lab;
use crate::peers::*;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const LEASE: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 60;

/// Three nodes and seven tasks; six of them published.
fn lab() -> Lab {
    let mut lab = Lab::new(3);
    lab.network(INGRESS, "10.255.0.0/24", true);
    for at in 0..8 {
        lab.container(usize::from(at) % 3, &[(INGRESS, ingress(10 + at))]);
        echo(&lab, usize::from(at));
        answer(&lab, usize::from(at));
    }
    lab.ingress(ADDRESS, false);
    publish(&mut lab, 6, &[]);
    lab.sync();
    lab.hold(ADDRESS, 2, LEASE);
    lab.announce(ADDRESS, 2);
    lab
}

/// Echoes lines, each with the task's name before it.
fn echo(lab: &Lab, at: usize) {
    let listener = lab.containers[at]
        .space
        .run(|| TcpListener::bind("0.0.0.0:80"))
        .expect("listen");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 1];
                while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&[at as u8]).is_ok() {}
            });
        }
    });
}

/// Answers each datagram with the task's number.
fn answer(lab: &Lab, at: usize) {
    let socket = lab.containers[at]
        .space
        .run(|| UdpSocket::bind("0.0.0.0:53"))
        .expect("bind");
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            if socket.send_to(&[at as u8], peer).is_err() {
                return;
            }
        }
    });
}

/// The first `count` tasks are published, some of them draining.
fn publish(lab: &mut Lab, count: u8, draining: &[u8]) {
    let tcp = PublishedEntry {
        protocol: Protocol::Tcp,
        published_port: 8080,
        target_port: 80,
        seed: 42,
        rows_log2: 12,
        algorithm: rows::ALGORITHM,
        ingress_vni: INGRESS,
        mode: IngressMode::Mesh,
        ingress_address: None,
        tasks: (0..count)
            .map(|at| PublishedTask {
                task_hash: u64::from(at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
                address: IpAddr::V4(ingress(10 + at)),
                node: 1 + u32::from(at % 3),
                draining: draining.contains(&at),
            })
            .collect(),
    };
    let udp = PublishedEntry {
        protocol: Protocol::Udp,
        published_port: 5353,
        target_port: 53,
        ..tcp.clone()
    };
    lab.tables.published = vec![tcp, udp];
}

/// A connection and the task that answers it.
struct Session {
    stream: TcpStream,
    task: u8,
}

fn exchange(stream: &mut TcpStream) -> std::io::Result<u8> {
    stream.write_all(b"?")?;
    let mut buffer = [0; 1];
    stream.read_exact(&mut buffer)?;
    Ok(buffer[0])
}

fn sessions(lab: &Lab, count: usize) -> Vec<Session> {
    let open = || {
        let address = (IpAddr::V4(ADDRESS), 8080).into();
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let task = exchange(&mut stream).expect("answered");
        Session { stream, task }
    };
    lab.client.run(|| (0..count).map(|_| open()).collect())
}

/// All sessions go on with their tasks, but for those whose task is among `gone`.
fn all_live(sessions: &mut [Session], gone: &[u8], when: &str) {
    for (at, session) in sessions.iter_mut().enumerate() {
        if gone.contains(&session.task) {
            continue;
        }
        match exchange(&mut session.stream) {
            Ok(task) => assert_eq!(task, session.task, "session {at}, {when}"),
            Err(error) => panic!("session {at} of task {}, {when}: {error}", session.task),
        }
    }
}

fn enter_at(lab: &mut Lab, node: usize) {
    lab.hold(ADDRESS, node, LEASE);
    lab.announce(ADDRESS, node);
}

#[test]
fn scaling_and_another_entry_at_the_same_time() {
    let mut lab = lab();
    let mut all = sessions(&lab, CONNECTIONS);
    let steps: [(u8, &[u8]); 4] = [(7, &[]), (7, &[6]), (6, &[]), (8, &[])];
    for (count, draining) in steps {
        publish(&mut lab, count, draining);
        // The nodes follow one by one, and the entry is a node with the old table, then one with the new.
        for node in 0..3 {
            lab.sync_one(node);
            for entry in [(node + 1) % 3, node] {
                enter_at(&mut lab, entry);
                let when = format!(
                    "{count} tasks, told up to node {}, entered at {}",
                    node + 1,
                    entry + 1
                );
                // The seventh task's flows end when it has left the tables.
                let gone: &[u8] = if count == 6 { &[6] } else { &[] };
                all_live(&mut all, gone, &when);
            }
        }
        let gone = |session: &Session| count == 6 && session.task == 6;
        all.retain(|session| !gone(session));
        all.extend(sessions(&lab, 10));
    }
}

#[test]
fn the_holder_dies_right_after_scaling() {
    let mut lab = lab();
    let mut all = sessions(&lab, CONNECTIONS);
    publish(&mut lab, 8, &[]);
    // Only the node that dies and the next holder have heard of it.
    lab.sync_one(2);
    lab.sync_one(1);
    lab.kill(2);
    for at in [0, 1] {
        lab.nodes[at].liveness().mark(3, false).expect("mark");
    }
    enter_at(&mut lab, 1);
    let on_dead: Vec<u8> = (0..8).filter(|at| at % 3 == 2).collect();
    all_live(&mut all, &on_dead, "the entry has the new table");
    enter_at(&mut lab, 0);
    all_live(&mut all, &on_dead, "the entry has the old table");
    lab.sync_one(0);
    all_live(&mut all, &on_dead, "both have the new table");
    // Flows of the dead node's tasks end at once, and new ones find the living.
    for session in all.iter_mut().filter(|session| on_dead.contains(&session.task)) {
        let begin = Datapath::now().expect("a clock");
        let error = exchange(&mut session.stream).expect_err("its task is gone");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        let took = Datapath::now().expect("a clock") - begin;
        assert!(took < Duration::from_millis(500), "{took:?}");
    }
    assert!(sessions(&lab, 20).iter().all(|s| !on_dead.contains(&s.task)));
}

#[test]
fn a_drained_task_keeps_its_flows_wherever_they_enter() {
    let mut lab = lab();
    let mut all = sessions(&lab, CONNECTIONS);
    publish(&mut lab, 8, &[0]);
    lab.sync();
    for entry in 0..3 {
        enter_at(&mut lab, entry);
        all_live(&mut all, &[], &format!("drained, entered at {}", entry + 1));
        assert!(sessions(&lab, 10).iter().all(|session| session.task != 0));
    }
}

/// A datagram's answer: the number of its task.
fn question(socket: &UdpSocket) -> std::io::Result<u8> {
    socket.send(b"?")?;
    let mut buffer = [0; 16];
    socket.recv(&mut buffer)?;
    Ok(buffer[0])
}

/// The node forgets that the rows of its ports are new.
fn rows_grow_old(lab: &Lab) {
    for node in &lab.nodes {
        let pin = node.config.pin_dir.join(format!("v{LAYOUT}/PUBLISHED"));
        let map = Map::HashMap(MapData::from_pin(pin).expect("pinned"));
        let mut map: HashMap<_, PublishedKey, PublishedValue> = map.try_into().expect("typed");
        let ports: Vec<_> = map.iter().collect::<Result<_, _>>().expect("read");
        for (key, value) in ports {
            let old = PublishedValue {
                changed_s: 0,
                ..value
            };
            map.insert(key, old, 0).expect("write");
        }
    }
}

#[test]
fn datagrams_stay_with_their_task_too() {
    let mut lab = lab();
    let open = |lab: &Lab, count: usize| -> Vec<(UdpSocket, u8)> {
        lab.client.run(|| {
            let one = |_| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
                socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
                socket.connect((ADDRESS, 5353)).expect("connect");
                let task = question(&socket).expect("answered");
                (socket, task)
            };
            (0..count).map(one).collect()
        })
    };
    let stay = |flows: &[(UdpSocket, u8)], when: &str| {
        for (at, (socket, task)) in flows.iter().enumerate() {
            let now =
                question(socket).unwrap_or_else(|error| panic!("flow {at} of task {task}, {when}: {error}"));
            assert_eq!(now, *task, "flow {at}, {when}");
        }
    };
    let mut flows = open(&lab, CONNECTIONS);
    publish(&mut lab, 8, &[]);
    for node in 0..3 {
        lab.sync_one(node);
        enter_at(&mut lab, (node + 1) % 3);
        stay(&flows, &format!("told up to node {}", node + 1));
    }
    // New ones begin while all ask, and all go on when nobody does any more.
    flows.extend(open(&lab, CONNECTIONS));
    assert!(flows[CONNECTIONS..].iter().any(|(_, task)| *task >= 6));
    stay(&flows, "the rows are new");
    rows_grow_old(&lab);
    for entry in 0..3 {
        enter_at(&mut lab, entry);
        stay(&flows, &format!("the rows are old, entered at {}", entry + 1));
    }
}
