//! Real traffic to an ingress address while it moves from node to node.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use skep_ebpf_loader::*;

use crate::lab::{CLIENT, Lab, node_address};
use crate::peers::*;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const LEASE: Duration = Duration::from_secs(60);

/// Three nodes; tasks on the first two. Port 8080 says who answers; 9090 is for the test to listen at, in the first task.
fn lab() -> Lab {
    let mut lab = Lab::new(3);
    lab.network(INGRESS, "10.255.0.0/24", true);
    for (at, node) in [(10, 0), (11, 1)] {
        let task = lab.container(node, &[(INGRESS, ingress(at))]);
        serve(&lab.containers[task].space, 80, &format!("task{at}"));
    }
    lab.ingress(ADDRESS, false);
    lab.tables.published = vec![port(8080, 80, &[(10, 1), (11, 2)]), port(9090, 90, &[(10, 1)])];
    for node in &lab.nodes {
        node.space
            .run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))
            .expect("forwarding");
    }
    lab.sync();
    lab
}

fn port(published_port: u16, target_port: u16, tasks: &[(u8, u32)]) -> PublishedEntry {
    PublishedEntry {
        protocol: Protocol::Tcp,
        published_port,
        target_port,
        seed: 42,
        rows_log2: 12,
        algorithm: rows::ALGORITHM,
        ingress_vni: INGRESS,
        mode: IngressMode::Mesh,
        ingress_address: None,
        tasks: tasks
            .iter()
            .map(|(last, node)| PublishedTask {
                task_hash: u64::from(*last).wrapping_mul(0x9e37_79b9_7f4a_7c15),
                address: IpAddr::V4(ingress(*last)),
                node: *node,
                draining: false,
            })
            .collect(),
    }
}

/// A connection of the client to the first task by port 9090 of this address.
fn connect(lab: &Lab, to: Ipv4Addr) -> (TcpStream, TcpStream) {
    let listener = lab.containers[0]
        .space
        .run(|| TcpListener::bind("0.0.0.0:90"))
        .expect("listen");
    let stream = lab
        .client
        .run(|| TcpStream::connect((to, 9090)))
        .expect("connect");
    let (served, _) = listener.accept().expect("accept");
    for end in [&stream, &served] {
        end.set_read_timeout(Some(PATIENCE)).expect("timeout");
    }
    (stream, served)
}

fn send(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) {
    from.set_write_timeout(Some(PATIENCE)).expect("timeout");
    // More than the buffers of both ends hold.
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(text).expect("send"));
        let mut buffer = vec![0; text.len()];
        to.read_exact(&mut buffer).expect("receive");
        assert_eq!(buffer, text);
    });
}

#[test]
fn the_address_answers_where_it_is_held_and_nowhere_else() {
    let mut lab = lab();
    for node in [2, 0, 1] {
        lab.hold(ADDRESS, node, LEASE);
        // The client asks by ARP.
        lab.client.ip("neigh flush dev eth0");
        let said = ask(&lab.client, ADDRESS, 8080).expect("held");
        assert!(said.ends_with(&format!(" {CLIENT}")), "{said}");
        assert!(ping(&lab.client, ADDRESS));
    }
    // The agent is stopped: its lease ends, and nobody else has one.
    lab.hold(ADDRESS, 1, Duration::ZERO);
    lab.client.ip("neigh flush dev eth0");
    assert!(!ping(&lab.client, ADDRESS));
}

#[test]
fn the_stack_of_the_holder_has_the_other_ports() {
    let mut lab = lab();
    lab.hold(ADDRESS, 2, LEASE);
    lab.nodes[2]
        .space
        .ip(&format!("address add {ADDRESS}/24 dev eth0 noprefixroute"));
    serve(&lab.nodes[2].space, 22, "sshd");
    assert!(
        ask(&lab.client, ADDRESS, 22)
            .expect("on the holder")
            .starts_with("sshd")
    );
    refused_at_once(&lab.client, ADDRESS, 23);
    // Sent to a node that does not hold it, though its stack has the address still: nobody but the holder answers ARP.
    lab.hold(ADDRESS, 0, LEASE);
    lab.announce(ADDRESS, 2);
    refused_at_once(&lab.client, ADDRESS, 22);
    lab.client.ip("neigh flush dev eth0");
    refused_at_once(&lab.client, ADDRESS, 22);
}

#[test]
fn a_connection_outlives_the_node_it_came_in_through() {
    let mut lab = lab();
    lab.hold(ADDRESS, 2, LEASE);
    let (mut client, mut task) = connect(&lab, ADDRESS);
    send(&mut client, &mut task, b"before");
    // The holder dies. Another one takes over; the client is silent, and the task goes on sending.
    lab.kill(2);
    for at in [0, 1] {
        lab.nodes[at].liveness().mark(3, false).expect("mark");
    }
    lab.hold(ADDRESS, 1, LEASE);
    lab.announce(ADDRESS, 1);
    send(&mut task, &mut client, &[7; 100_000]);
    send(&mut client, &mut task, b"after");
    // And once more, to the task's own node.
    lab.hold(ADDRESS, 0, LEASE);
    lab.announce(ADDRESS, 0);
    send(&mut task, &mut client, b"still");
    send(&mut client, &mut task, b"there");
}

#[test]
fn a_hand_over_loses_nothing_in_either_direction() {
    let mut lab = lab();
    lab.hold(ADDRESS, 1, LEASE);
    lab.announce(ADDRESS, 1);
    let (mut client, mut task) = connect(&lab, ADDRESS);
    // The nodes know of the new holder one after the other, and the client last: every step works.
    let until = Datapath::monotonic_ns().expect("a clock") + LEASE.as_nanos() as u64;
    for at in [2, 0, 1] {
        let own = (at == 2).then_some(until);
        let mut liveness = lab.nodes[at].liveness();
        liveness.hold(IpAddr::V4(ADDRESS), Some(3), own).expect("hold");
        send(&mut client, &mut task, b"to");
        send(&mut task, &mut client, b"from");
    }
    lab.announce(ADDRESS, 2);
    send(&mut client, &mut task, b"to");
    send(&mut task, &mut client, b"from");
    let total: u64 = (0..3)
        .map(|at| lab.nodes[at].drops(DropReason::MeshReturnUnknown))
        .sum();
    assert_eq!(total, 0);
}

#[test]
fn an_address_that_several_nodes_have_leaves_where_the_task_is() {
    // Behind a router that hashes over the nodes: the address is on each node's `lo`.
    let mut lab = lab();
    let anycast = Ipv4Addr::new(203, 0, 113, 9);
    lab.anycast = Some(anycast);
    lab.sync();
    lab.client
        .ip(&format!("route add {anycast}/32 via {}", node_address(3)));
    let (mut client, mut task) = connect(&lab, anycast);
    send(&mut client, &mut task, b"before");
    lab.kill(2);
    lab.nodes[0].liveness().mark(3, false).expect("mark");
    // The client is silent and hears the task all the same.
    send(&mut task, &mut client, b"leaves here");
    lab.client
        .ip(&format!("route replace {anycast}/32 via {}", node_address(2)));
    send(&mut client, &mut task, b"enters there");
    send(&mut task, &mut client, b"and back");
}

#[test]
fn replies_of_a_dsr_port_pass_no_other_node() {
    let mut lab = lab();
    lab.hold(ADDRESS, 2, LEASE);
    let mut packets = |mode| {
        lab.tables.published[1].mode = mode;
        lab.sync();
        let (mut client, mut task) = connect(&lab, ADDRESS);
        let before = lab.nodes[2].with(|d| d.counters()).expect("counters");
        send(&mut task, &mut client, &[7; 1 << 20]);
        let after = lab.nodes[2].with(|d| d.counters()).expect("counters");
        send(&mut client, &mut task, b"end");
        after.received - before.received
    };
    // The holder sees the client's acknowledgements in either case, the data in one only.
    let (mesh, direct) = (packets(IngressMode::Mesh), packets(IngressMode::Dsr));
    assert!(mesh > direct, "{mesh} packets by the mesh, {direct} directly");
    assert_eq!(lab.nodes[0].drops(DropReason::NoRoute), 0);
}

#[test]
fn a_local_port_answers_where_its_tasks_are() {
    let mut lab = lab();
    lab.tables.published[0].mode = IngressMode::Local;
    lab.sync();
    for (node, task) in [(0, "task10"), (1, "task11")] {
        lab.hold(ADDRESS, node, LEASE);
        lab.announce(ADDRESS, node);
        for _ in 0..8 {
            let said = ask(&lab.client, ADDRESS, 8080).expect("local");
            assert!(said.starts_with(task), "{said}");
        }
    }
    lab.hold(ADDRESS, 2, LEASE);
    lab.announce(ADDRESS, 2);
    refused_at_once(&lab.client, ADDRESS, 8080);
}

#[test]
fn flows_of_a_dead_task_end_with_a_reset() {
    let mut lab = lab();
    // Another task's node lives, and is asked.
    lab.tables.published[1] = port(9090, 90, &[(10, 1), (11, 2)]);
    lab.tables.published[1].tasks[1].draining = true;
    lab.sync();
    lab.hold(ADDRESS, 2, LEASE);
    let (mut client, mut task) = connect(&lab, ADDRESS);
    send(&mut client, &mut task, b"before");
    lab.kill(0);
    for at in [1, 2] {
        lab.nodes[at].liveness().mark(1, false).expect("mark");
    }
    let begin = Datapath::now().expect("a clock");
    client.write_all(b"x").expect("a socket takes a byte");
    let mut buffer = [0; 1];
    let error = client.read(&mut buffer).expect_err("the task is gone");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    let took = Datapath::now().expect("a clock") - begin;
    assert!(took < Duration::from_millis(500), "{took:?}");
    // New ones go to whoever lives.
    for _ in 0..8 {
        let said = ask(&lab.client, ADDRESS, 8080).expect("published");
        assert!(said.starts_with("task11"), "{said}");
    }
}
