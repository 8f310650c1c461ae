//! Ingress addresses, packet by packet: ARP, echo, refusals, replies, modes.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use skep_ebpf_common::{Address, HolderValue, LAYOUT};
use skep_ebpf_loader::*;

use crate::lab::{CLIENT, Lab, node_address, uplink_mac};
use crate::packets::{ACK, Frame, ICMP, RST, SYN, TCP, UDP};
use crate::peers::{INGRESS, ingress};

const SHARED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const DEDICATED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 201);
const CLIENT_MAC: [u8; 6] = [2, 9, 9, 9, 9, 9];
const LEASE: Duration = Duration::from_secs(60);

/// A node that knows of two others; it has the task behind 8080 and behind a port of each mode.
fn lab() -> Lab {
    let mut lab = Lab::new(1);
    lab.tables.nodes.extend([2, 3].map(|index| NodeEntry {
        index,
        underlay: IpAddr::V4(node_address(index)),
    }));
    lab.network(INGRESS, "10.255.0.0/24", true);
    lab.container(0, &[(INGRESS, ingress(10))]);
    lab.ingress(SHARED, false);
    lab.ingress(DEDICATED, true);
    let here = vec![task(10, 1)];
    lab.tables.published = vec![
        port(8080, here.clone()),
        PublishedEntry {
            mode: IngressMode::Dsr,
            ..port(8081, here.clone())
        },
        PublishedEntry {
            mode: IngressMode::Local,
            ..port(8082, vec![task(12, 2)])
        },
        PublishedEntry {
            ingress_address: Some(IpAddr::V4(DEDICATED)),
            ..port(8083, here)
        },
        port(8084, vec![task(12, 2)]),
    ];
    lab.sync();
    lab
}

fn task(last: u8, node: u32) -> PublishedTask {
    PublishedTask {
        task_hash: u64::from(last),
        address: IpAddr::V4(ingress(last)),
        node,
        draining: false,
    }
}

fn port(published_port: u16, tasks: Vec<PublishedTask>) -> PublishedEntry {
    PublishedEntry {
        protocol: Protocol::Tcp,
        published_port,
        target_port: 80,
        seed: 7,
        rows_log2: 4,
        algorithm: rows::ALGORITHM,
        ingress_vni: INGRESS,
        mode: IngressMode::Mesh,
        ingress_address: None,
        tasks,
    }
}

fn arp(request: bool, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let kind = if request { 1 } else { 2 };
    let mut frame = [[0xff; 6], CLIENT_MAC].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, kind]);
    frame.extend(CLIENT_MAC);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

fn client(destination: Ipv4Addr, protocol: u8, port: u16) -> Frame {
    Frame {
        source_mac: CLIENT_MAC,
        destination_mac: uplink_mac(1),
        protocol,
        source: CLIENT,
        destination,
        source_port: if protocol == ICMP { 8 } else { 40_000 },
        destination_port: if protocol == ICMP { 0 } else { port },
        flags: SYN,
        dont_fragment: true,
        payload: b"hello".to_vec(),
    }
}

fn reply(port: u16) -> Frame {
    let o = ingress(10).octets();
    Frame {
        source_mac: [2, 0x42, o[0], o[1], o[2], o[3]],
        destination_mac: GATEWAY_MAC,
        source: ingress(10),
        destination: CLIENT,
        source_port: 80,
        destination_port: port,
        flags: SYN | ACK,
        ..client(CLIENT, TCP, 0)
    }
}

fn run(lab: &mut Lab, program: Program, bytes: &[u8]) -> TestOutcome {
    let ifindex = match program {
        Program::Uplink => lab.nodes[0].uplink,
        _ => lab.containers[0].endpoints[0].local.expect("local").ifindex,
    };
    let packet = TestPacket {
        bytes,
        ifindex,
        segment_size: 0,
        repeat: 1,
    };
    lab.nodes[0].with(|d| d.test_run(program, &packet)).expect("run")
}

fn uplink(lab: &mut Lab, frame: &Frame) -> TestOutcome {
    run(lab, Program::Uplink, &frame.bytes())
}

fn out(how: u32, ifindex: u32) -> Verdict {
    Verdict::Redirect {
        how,
        ifindex,
        vni: 0,
        remote: 0,
    }
}

fn tunnel(lab: &Lab, node: u32) -> Verdict {
    Verdict::Redirect {
        how: 4,
        ifindex: lab.nodes[0].config.vxlan_ifindex,
        vni: 1,
        remote: u32::from(node_address(node)),
    }
}

fn holder(lab: &mut Lab, node: Option<u32>, until: Option<Duration>) {
    let now = Datapath::monotonic_ns().expect("a clock");
    let until = until.map(|lease| now + lease.as_nanos() as u64);
    let mut liveness = lab.nodes[0].liveness();
    liveness.hold(IpAddr::V4(SHARED), node, until).expect("hold");
    liveness.hold(IpAddr::V4(DEDICATED), node, until).expect("hold");
}

#[test]
fn arp_is_answered_by_the_holder_while_its_lease_lasts() {
    let mut lab = lab();
    let asked = arp(true, CLIENT, SHARED);
    let announced = arp(true, SHARED, SHARED);
    let drop = Verdict::Drop(DropReason::IngressArp);
    // Nobody is known; another node holds; this one does; it did.
    for (node, until, held) in [
        (None, None, false),
        (Some(2), None, false),
        (Some(1), Some(LEASE), true),
        (Some(1), Some(Duration::ZERO), false),
    ] {
        holder(&mut lab, node, until);
        let outcome = run(&mut lab, Program::Uplink, &asked);
        if held {
            assert_eq!(outcome.verdict, out(3, lab.nodes[0].uplink));
            let bytes = outcome.bytes;
            assert_eq!(
                (&bytes[..6], &bytes[6..12]),
                (&CLIENT_MAC[..], &uplink_mac(1)[..])
            );
            assert_eq!(&bytes[20..22], &[0, 2]);
            assert_eq!(&bytes[22..28], &uplink_mac(1));
            assert_eq!(&bytes[28..32], &SHARED.octets());
        } else {
            assert_eq!(outcome.verdict, drop, "{node:?} {until:?}");
        }
        // What another node announces is for this node's own neighbour table, unless this one holds.
        let outcome = run(&mut lab, Program::Uplink, &announced);
        assert_eq!(outcome.verdict, if held { drop } else { Verdict::Pass });
    }
    let others = [
        arp(false, CLIENT, SHARED),
        arp(true, CLIENT, node_address(1)),
        arp(true, SHARED, CLIENT),
    ];
    for frame in others {
        assert_eq!(run(&mut lab, Program::Uplink, &frame).verdict, Verdict::Pass);
    }
    lab.nodes[0]
        .liveness()
        .forget(IpAddr::V4(SHARED))
        .expect("forget");
    assert_eq!(run(&mut lab, Program::Uplink, &asked).verdict, drop);
}

#[test]
fn every_node_takes_packets_to_it_at_any_time() {
    let mut lab = lab();
    let veth = lab.containers[0].endpoints[0].local.expect("local").ifindex;
    let uplink_ifindex = lab.nodes[0].uplink;
    for (node, until) in [(None, None), (Some(2), None), (Some(1), Some(LEASE))] {
        holder(&mut lab, node, until);
        let outcome = uplink(&mut lab, &client(SHARED, TCP, 8080));
        assert_eq!(outcome.verdict, out(1, veth));
        let echo = uplink(&mut lab, &client(SHARED, ICMP, 0));
        assert_eq!(echo.verdict, out(3, uplink_ifindex));
        let echo = Frame::read(&echo.bytes);
        assert_eq!(
            (echo.source, echo.destination, echo.source_port),
            (SHARED, CLIENT, 0)
        );
        assert_eq!(echo.destination_mac, CLIENT_MAC);
    }
    // To a task elsewhere the packet says that the swarm's address was dialed.
    let outcome = uplink(&mut lab, &client(SHARED, TCP, 8084));
    assert_eq!(outcome.verdict, tunnel(&lab, 2));
    assert_eq!(
        Frame::read(&outcome.bytes).destination_mac,
        [2, 0x53, 0x4b, 1, 1, 1]
    );
}

#[test]
fn what_is_not_published_is_the_holders_stacks() {
    let mut lab = lab();
    let frames = [client(SHARED, TCP, 22), client(SHARED, UDP, 53)];
    for (node, until, passes) in [
        (None, None, false),
        (Some(2), None, false),
        (Some(1), Some(LEASE), true),
        // The address is on the interface for a while yet.
        (Some(1), Some(Duration::ZERO), true),
    ] {
        holder(&mut lab, node, until);
        for frame in &frames {
            let outcome = uplink(&mut lab, frame);
            if passes {
                assert_eq!(outcome.verdict, Verdict::Pass);
                continue;
            }
            assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NotHeld));
            let answer = Frame::read(&outcome.bytes);
            assert_eq!((answer.source, answer.destination), (SHARED, CLIENT));
            match frame.protocol {
                TCP => assert_eq!(answer.flags, RST | ACK),
                _ => assert_eq!(
                    (answer.protocol, answer.source_port, answer.destination_port),
                    (ICMP, 3, 3)
                ),
            }
        }
    }
    // A node's own addresses are its stack's, whoever holds what.
    assert_eq!(
        uplink(&mut lab, &client(node_address(1), TCP, 22)).verdict,
        Verdict::Pass
    );
}

#[test]
fn a_dedicated_address_has_the_ports_that_name_it() {
    let mut lab = lab();
    let veth = lab.containers[0].endpoints[0].local.expect("local").ifindex;
    assert_eq!(
        uplink(&mut lab, &client(DEDICATED, TCP, 8083)).verdict,
        out(1, veth)
    );
    for (address, port) in [(DEDICATED, 8080), (SHARED, 8083)] {
        let outcome = uplink(&mut lab, &client(address, TCP, port));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NotHeld), "{address}");
    }
    assert_eq!(
        uplink(&mut lab, &client(node_address(1), TCP, 8083)).verdict,
        Verdict::Pass
    );
    // The same port of two services, one of each kind.
    let at_dedicated = lab.tables.published.iter_mut().find(|p| p.published_port == 8083);
    at_dedicated.expect("8083").published_port = 8084;
    lab.sync();
    let other_client = Frame {
        source_port: 40_001,
        ..client(DEDICATED, TCP, 8084)
    };
    assert_eq!(uplink(&mut lab, &other_client).verdict, out(1, veth));
    let elsewhere = uplink(&mut lab, &client(SHARED, TCP, 8084)).verdict;
    assert_eq!(elsewhere, tunnel(&lab, 2));
}

#[test]
fn replies_leave_through_whoever_holds_the_address_now() {
    let mut lab = lab();
    uplink(&mut lab, &client(SHARED, TCP, 8080));
    let answer = reply(40_000).bytes();
    let uplink_ifindex = lab.nodes[0].uplink;
    let here = out(2, uplink_ifindex);
    let mut seen = |node, until| {
        holder(&mut lab, node, until);
        let outcome = run(&mut lab, Program::Container, &answer);
        assert_eq!(Frame::read(&outcome.bytes).source, SHARED);
        outcome.verdict
    };
    assert_eq!(seen(None, None), here, "nobody is known");
    assert_eq!(seen(Some(1), Some(LEASE)), here, "this node");
    assert_eq!(seen(Some(1), None), here, "this node's lease is over");
    let verdicts = [seen(Some(2), None), seen(Some(3), None)];
    assert_eq!(verdicts, [tunnel(&lab, 2), tunnel(&lab, 3)]);
    // The holder is gone and nobody has taken over yet: any node can send with the address.
    lab.nodes[0].liveness().mark(3, false).expect("mark");
    assert_eq!(run(&mut lab, Program::Container, &answer).verdict, here);
    lab.nodes[0].liveness().mark(3, true).expect("mark");
    assert_eq!(
        run(&mut lab, Program::Container, &answer).verdict,
        tunnel(&lab, 3)
    );
    // The holder is in no table.
    holder(&mut lab, Some(9), None);
    assert_eq!(run(&mut lab, Program::Container, &answer).verdict, here);
}

#[test]
fn replies_follow_the_client_when_nobody_says_who_holds() {
    let mut lab = lab();
    uplink(&mut lab, &client(SHARED, TCP, 8080));
    holder(&mut lab, Some(2), None);
    let answer = reply(40_000).bytes();
    assert_eq!(
        run(&mut lab, Program::Container, &answer).verdict,
        tunnel(&lab, 2)
    );
    // The agent has been down since the kernel's clock began.
    let pin = lab.nodes[0].config.pin_dir.join(format!("v{LAYOUT}/HOLDERS"));
    let map = Map::HashMap(MapData::from_pin(pin).expect("pinned"));
    let mut map: HashMap<_, Address, HolderValue> = map.try_into().expect("typed");
    for (address, value) in map.iter().collect::<Result<Vec<_>, _>>().expect("read") {
        map.insert(address, HolderValue { told_s: 0, ..value }, 0)
            .expect("write");
    }
    let outcome = run(&mut lab, Program::Container, &answer);
    assert_eq!(outcome.verdict, out(2, lab.nodes[0].uplink));
}

#[test]
fn replies_of_other_addresses_go_back_where_the_client_came_in() {
    let mut lab = lab();
    holder(&mut lab, Some(2), None);
    uplink(&mut lab, &client(node_address(1), TCP, 8080));
    let outcome = run(&mut lab, Program::Container, &reply(40_000).bytes());
    assert_eq!(outcome.verdict, out(2, lab.nodes[0].uplink));
}

#[test]
fn direct_replies_leave_by_the_route() {
    let mut lab = lab();
    holder(&mut lab, Some(2), None);
    lab.nodes[0]
        .space
        .run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))
        .expect("forwarding");
    uplink(&mut lab, &client(SHARED, TCP, 8081));
    let outcome = run(&mut lab, Program::Container, &reply(40_000).bytes());
    assert_eq!(outcome.verdict, out(2, lab.nodes[0].uplink));
    let left = Frame::read(&outcome.bytes);
    assert_eq!((left.source, left.source_port), (SHARED, 8081));
    // Without a route it goes the usual way.
    lab.nodes[0].space.ip("route add blackhole 192.0.2.100/32");
    let outcome = run(&mut lab, Program::Container, &reply(40_000).bytes());
    assert_eq!(outcome.verdict, tunnel(&lab, 2));
}

#[test]
fn a_local_port_is_the_nodes_own_tasks_alone() {
    let mut lab = lab();
    let outcome = uplink(&mut lab, &client(SHARED, TCP, 8082));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoBackend));
    let local = lab.tables.published.iter_mut().find(|p| p.published_port == 8082);
    local.expect("8082").tasks.push(task(10, 1));
    lab.sync();
    let veth = lab.containers[0].endpoints[0].local.expect("local").ifindex;
    for source_port in 0..32 {
        let frame = Frame {
            source_port: 50_000 + source_port,
            ..client(SHARED, TCP, 8082)
        };
        assert_eq!(uplink(&mut lab, &frame).verdict, out(1, veth));
    }
}

#[test]
fn a_flow_nobody_knows_is_reset() {
    let mut lab = lab();
    let unknown = Frame {
        flags: ACK,
        source_port: 41_000,
        ..client(SHARED, TCP, 8080)
    };
    let outcome = uplink(&mut lab, &unknown);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::UnknownFlow));
    assert_eq!(Frame::read(&outcome.bytes).flags, RST);
    // Its task's node is gone, and there is no other.
    lab.nodes[0].liveness().mark(2, false).expect("mark");
    for (flags, reason) in [
        (ACK, DropReason::UnknownFlow),
        (SYN, DropReason::NoBackend),
        (ACK | 1, DropReason::UnknownFlow),
    ] {
        let frame = Frame {
            flags,
            ..client(SHARED, TCP, 8084)
        };
        let outcome = uplink(&mut lab, &frame);
        assert_eq!(outcome.verdict, Verdict::Drop(reason));
        assert_eq!(Frame::read(&outcome.bytes).flags & RST, RST);
    }
    // A node that left the tables takes its mark along; one that the tables do not know yet keeps it.
    lab.nodes[0].liveness().mark(9, false).expect("mark");
    lab.tables.nodes.retain(|node| node.index != 2);
    lab.sync();
    let marked = lab.nodes[0].liveness().marked().expect("marks");
    assert_eq!(marked.into_iter().collect::<Vec<_>>(), [9]);
    // A task of a node that is in no table.
    let outcome = uplink(&mut lab, &client(SHARED, TCP, 8084));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::DeadNode));
    assert_eq!(Frame::read(&outcome.bytes).destination_mac, CLIENT_MAC);
}

#[test]
fn a_flow_to_a_port_that_collides_is_reset() {
    let mut lab = lab();
    // Both ports lead to the same port of the same task: the task could not tell the two flows apart.
    uplink(&mut lab, &client(SHARED, TCP, 8080));
    let outcome = uplink(&mut lab, &client(SHARED, TCP, 8081));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::FlowCollision));
    assert_eq!(Frame::read(&outcome.bytes).flags, RST | ACK);
}
