//! Real traffic inside a network: containers and VIPs on two nodes.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use skep_ebpf_loader::*;

use crate::lab::Lab;
use crate::peers::*;

/// Two nodes' worth of an application network: a client on node 0 and tasks on nodes 0 and 1.
fn application() -> Lab {
    let mut lab = Lab::new(2);
    lab.network(APP, "10.0.1.0/24", false);
    lab.container(0, &[(APP, app(10))]);
    lab.container(0, &[(APP, app(11))]);
    lab.container(1, &[(APP, app(12))]);
    let backends = vec![IpAddr::V4(app(11)), IpAddr::V4(app(12))];
    lab.tables.services.push(ServiceEntry {
        vni: APP,
        vip: IpAddr::V4(app(2)),
        backends,
    });
    lab.tables.services.push(ServiceEntry {
        vni: APP,
        vip: IpAddr::V4(app(3)),
        backends: vec![],
    });
    lab.sync();
    lab
}

#[test]
fn containers_reach_each_other_and_only_their_network() {
    let mut lab = application();
    for at in [1, 2] {
        serve(&lab.containers[at].space, 80, &format!("task{at}"));
    }
    assert_eq!(
        ask(&lab.containers[0].space, app(11), 80).expect("same node"),
        "task1 10.0.1.10"
    );
    assert_eq!(
        ask(&lab.containers[0].space, app(12), 80).expect("other node"),
        "task2 10.0.1.10"
    );
    lab.network(4098, "10.0.2.0/24", false);
    let stranger = lab.container(0, &[(4098, Ipv4Addr::new(10, 0, 2, 10))]);
    lab.sync();
    assert!(ask(&lab.containers[stranger].space, app(11), 80).is_err());
}

#[test]
fn a_vip_reaches_all_tasks_and_answers_for_none() {
    let mut lab = application();
    for at in [1, 2] {
        serve(&lab.containers[at].space, 80, &format!("task{at}"));
    }
    let client = &lab.containers[0].space;
    let said: Vec<String> = (0..24).map(|_| ask(client, app(2), 80).expect("VIP")).collect();
    assert!(said.iter().all(|s| s.ends_with(" 10.0.1.10")), "{said:?}");
    assert!(
        said.iter().any(|s| s.starts_with("task1")) && said.iter().any(|s| s.starts_with("task2")),
        "{said:?}"
    );
    assert!(ping(client, app(2)), "the VIP answers echo requests");
    assert!(ping(client, app(12)), "so does a task on another node");
    // A port nobody listens on is the task's own refusal, translated back.
    refused_at_once(client, app(2), 81);
    refused_at_once(client, app(3), 80);
    assert!(lab.nodes[0].drops(DropReason::NoBackend) > 0);
    let counters = lab.nodes[0].with(|d| d.counters()).expect("counters");
    assert_eq!(
        counters.received,
        counters.passed + counters.redirected + counters.dropped
    );
}

#[test]
fn udp_to_a_vip_and_its_refusals() {
    let lab = application();
    for at in [1, 2] {
        let socket = lab.containers[at]
            .space
            .run(|| UdpSocket::bind("0.0.0.0:53"))
            .expect("bind");
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                if socket.send_to(&buffer[..length], peer).is_err() {
                    return;
                }
            }
        });
    }
    let send = |to: Ipv4Addr, port: u16, payload: &[u8]| {
        lab.containers[0].space.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            socket.connect((to, port))?;
            socket.send(payload)?;
            let mut buffer = [0; 2048];
            socket.recv(&mut buffer)
        })
    };
    for _ in 0..8 {
        assert_eq!(send(app(2), 53, b"hello").expect("echo"), 5);
    }
    for _ in 0..4 {
        assert_eq!(send(app(2), 53, &[7; 1800]).expect("echo in fragments"), 1800);
    }
    assert_eq!(
        send(app(2), 54, b"x").expect_err("no such port").kind(),
        ErrorKind::ConnectionRefused
    );
    assert_eq!(
        send(app(3), 53, b"x").expect_err("no task").kind(),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn a_task_reaches_itself_by_its_own_vip() {
    let mut lab = Lab::new(1);
    lab.network(APP, "10.0.1.0/24", false);
    let task = lab.container(0, &[(APP, app(10))]);
    let backends = vec![IpAddr::V4(app(10))];
    lab.tables.services.push(ServiceEntry {
        vni: APP,
        vip: IpAddr::V4(app(2)),
        backends,
    });
    lab.sync();
    serve(&lab.containers[task].space, 80, "me");
    assert_eq!(
        ask(&lab.containers[task].space, app(2), 80).expect("hairpin"),
        "me 10.0.1.2"
    );
}

/// The task sees the same four numbers in both cases, and so does the flow table.
#[test]
fn a_client_calls_a_task_itself_from_the_port_it_called_the_vip_from() {
    let lab = application();
    for at in [1, 2] {
        serve(&lab.containers[at].space, 80, &format!("task{at}"));
    }
    let from = |port: u16, to: Ipv4Addr| ask_from(&lab.containers[0].space, port, to, 80);
    for port in 40_000..40_008 {
        assert!(from(port, app(2)).expect("VIP").starts_with("task"));
        for to in [11, 12] {
            let task = format!("task{} 10.0.1.10", to - 10);
            assert_eq!(from(port, app(to)).expect("the task itself"), task, "port {port}");
        }
        assert!(from(port, app(2)).expect("VIP again").starts_with("task"));
    }
}

#[test]
fn a_withdrawn_task_keeps_its_flow() {
    let mut lab = application();
    lab.tables.services[0].backends = vec![IpAddr::V4(app(12))];
    lab.sync();
    let listener = lab.containers[2]
        .space
        .run(|| TcpListener::bind("0.0.0.0:80"))
        .expect("listen");
    let mut stream = lab.containers[0]
        .space
        .run(|| TcpStream::connect("10.0.1.2:80"))
        .expect("connect");
    let (mut served, _) = listener.accept().expect("accept");
    let mut exchange = |text: &[u8]| {
        stream.write_all(text).expect("send");
        let mut buffer = [0; 8];
        served.read_exact(&mut buffer[..text.len()]).expect("receive");
        served.write_all(text).expect("reply");
        stream
            .read_exact(&mut buffer[..text.len()])
            .expect("reply received");
    };
    exchange(b"before");
    let flows = lab.nodes[0]
        .with(|d| d.flow_tables()?.established_to(APP, IpAddr::V4(app(12))))
        .expect("flows");
    assert_eq!(flows, 1);
    lab.tables.services[0].backends.clear();
    lab.sync();
    exchange(b"after");
    refused_at_once(&lab.containers[0].space, app(2), 80);
}

#[test]
fn a_flow_to_a_task_of_a_dead_node_ends_with_a_reset() {
    let mut lab = application();
    lab.tables.services[0].backends = vec![IpAddr::V4(app(12))];
    lab.sync();
    let listener = lab.containers[2]
        .space
        .run(|| TcpListener::bind("0.0.0.0:80"))
        .expect("listen");
    let client = &lab.containers[0].space;
    let mut stream = client.run(|| TcpStream::connect("10.0.1.2:80")).expect("connect");
    let (_served, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    lab.nodes[0].liveness().mark(2, false).expect("mark");
    stream.write_all(b"x").expect("a socket takes a byte");
    let error = stream.read(&mut [0; 1]).expect_err("the task is gone");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    assert!(lab.nodes[0].drops(DropReason::DeadNode) > 0);
    refused_at_once(&lab.containers[0].space, app(2), 80);
    // The node answers again.
    lab.nodes[0].liveness().mark(2, true).expect("mark");
    serve(&lab.containers[2].space, 81, "task2");
    assert!(
        ask(&lab.containers[0].space, app(2), 81)
            .expect("back")
            .starts_with("task2")
    );
}

#[test]
fn a_spoofing_container_is_silenced_and_counted() {
    let mut lab = application();
    serve(&lab.containers[1].space, 80, "task1");
    let space = &lab.containers[0].space;
    space.ip("address add 10.0.1.99/24 dev eth0");
    let result = space.run(|| {
        let socket = UdpSocket::bind("10.0.1.99:0").expect("bind");
        socket.send_to(b"x", "10.0.1.11:80")
    });
    assert!(result.is_ok());
    space.ip("link set eth0 address 02:42:0a:00:01:0b");
    assert!(ask(&lab.containers[0].space, app(11), 80).is_err());
    assert!(lab.nodes[0].drops(DropReason::SpoofedAddress) + lab.nodes[0].drops(DropReason::SpoofedArp) > 0);
    assert!(lab.nodes[0].drops(DropReason::SpoofedMac) + lab.nodes[0].drops(DropReason::SpoofedArp) > 1);
}

#[test]
fn much_data_arrives_whatever_the_containers_think_of_the_mtu() {
    let lab = application();
    for at in [1, 2] {
        count(&lab.containers[at].space, 80);
    }
    // A container that was given a larger MTU than the tunnel carries is told the right one.
    lab.containers[0].space.ip("link set eth0 mtu 1500");
    lab.nodes[0].space.ip("link set v1x0 mtu 1500");
    let client = &lab.containers[0].space;
    push(client, app(11), 80).expect("same node");
    push(client, app(12), 80).expect("other node");
    for _ in 0..4 {
        push(client, app(2), 80).expect("VIP");
    }
}

#[test]
fn a_datagram_too_big_for_the_tunnel_is_answered() {
    let mut lab = application();
    lab.containers[0].space.ip("link set eth0 mtu 1500");
    lab.nodes[0].space.ip("link set v1x0 mtu 1500");
    let error = lab.containers[0].space.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        set_dont_fragment(&socket);
        socket.connect("10.0.1.12:80").expect("connect");
        socket
            .send(&[0; 1440])
            .expect("the first one is only refused by the network");
        std::thread::sleep(Duration::from_millis(50));
        socket.send(&[0; 1440]).expect_err("too big")
    });
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    assert!(lab.nodes[0].drops(DropReason::TooBig) > 0);
}
