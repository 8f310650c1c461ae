//! Real traffic: containers, VIPs and published ports over three nodes.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use skep_ebpf_loader::*;

use crate::lab::{CLIENT, Lab, MESH, Space, node_address};

const APP: u32 = 4097;
const INGRESS: u32 = 4096;
const PATIENCE: Duration = Duration::from_secs(3);

fn app(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, last)
}

fn ingress(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, last)
}

/// A TCP server in a namespace: says its own name and whom it sees.
fn serve(space: &Space, port: u16, name: &str) {
    let listener = space
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .expect("listen");
    let name = name.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default();
            // A client that is gone is the client's business.
            if stream.write_all(format!("{name} {peer}").as_bytes()).is_err() {
                continue;
            }
        }
    });
}

/// What a server said.
fn ask(space: &Space, to: Ipv4Addr, port: u16) -> std::io::Result<String> {
    space.run(|| {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(IpAddr::V4(to), port), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    })
}

/// Does an echo request come back within a second?
fn ping(space: &Space, to: Ipv4Addr) -> bool {
    space.run(|| {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Icmp,
        );
        let socket = UdpSocket::from(socket.expect("raw socket"));
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("timeout");
        // Type 8, checksum, identifier 0x1234, sequence 1.
        socket
            .send_to(&[8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1], (to, 0))
            .expect("send");
        let mut buffer = [0; 128];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            if length >= 28
                && buffer[20] == 0
                && buffer[24..26] == [0x12, 0x34]
                && peer.ip() == IpAddr::V4(to)
            {
                return true;
            }
        }
        false
    })
}

fn refused_at_once(space: &Space, to: Ipv4Addr, port: u16) {
    let begin = Datapath::now().expect("a clock");
    let error = ask(space, to, port).expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let took = Datapath::now().expect("a clock") - begin;
    assert!(took < Duration::from_millis(500), "{took:?}");
}

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
        .with(|d| d.established_flows_to(APP, IpAddr::V4(app(12))))
        .expect("flows");
    assert_eq!(flows, 1);
    lab.tables.services[0].backends.clear();
    lab.sync();
    exchange(b"after");
    refused_at_once(&lab.containers[0].space, app(2), 80);
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

fn published(tasks: &[(u8, u32)]) -> PublishedEntry {
    PublishedEntry {
        protocol: Protocol::Tcp,
        published_port: 8080,
        target_port: 80,
        seed: 42,
        rows_log2: 12,
        algorithm: rows::ALGORITHM,
        ingress_vni: INGRESS,
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

/// Three nodes; tasks on the first two, port 8080 on all.
fn mesh() -> Lab {
    mesh_at(Hook::Tcx)
}

fn mesh_at(hook: Hook) -> Lab {
    let mut lab = Lab::at(3, hook);
    lab.network(APP, "10.0.1.0/24", false);
    lab.network(INGRESS, "10.255.0.0/24", true);
    for (at, node) in [(10, 0), (11, 1)] {
        // The default route is the application network's: replies leave by the other interface.
        let task = lab.container(node, &[(APP, app(at)), (INGRESS, ingress(at))]);
        serve(&lab.containers[task].space, 80, &format!("task{at}"));
    }
    lab.tables.published.push(published(&[(10, 1), (11, 2)]));
    lab.tables.published.push(PublishedEntry {
        published_port: 8081,
        ..published(&[])
    });
    lab.sync();
    lab
}

#[test]
fn a_published_port_answers_on_every_node_with_the_client_kept() {
    let lab = mesh();
    for node in 1..=3 {
        let said: Vec<String> = (0..16)
            .map(|_| ask(&lab.client, node_address(node), 8080).expect("published"))
            .collect();
        assert!(
            said.iter().all(|s| s.ends_with(&format!(" {CLIENT}"))),
            "{said:?}"
        );
        assert!(said.iter().any(|s| s.starts_with("task10")), "{said:?}");
        assert!(said.iter().any(|s| s.starts_with("task11")), "{said:?}");
        refused_at_once(&lab.client, node_address(node), 8081);
    }
}

#[test]
fn the_nodes_own_sockets_reach_published_ports() {
    let lab = mesh();
    for at in 0..3 {
        let node = &lab.nodes[at];
        for _ in 0..8 {
            let said = ask(&node.space, MESH, 8080).expect("published");
            assert!(said.ends_with(&format!(" {}", node.address)), "{said}");
        }
        refused_at_once(&node.space, MESH, 8081);
    }
}

#[test]
fn a_dead_node_is_passed_over_and_flows_survive_a_new_agent() {
    let mut lab = mesh();
    let listener = lab.containers[0]
        .space
        .run(|| TcpListener::bind("0.0.0.0:90"))
        .expect("listen");
    let entry = PublishedEntry {
        published_port: 9090,
        target_port: 90,
        ..published(&[(10, 1)])
    };
    lab.tables.published.push(entry);
    lab.sync();
    let mut stream = lab
        .client
        .run(|| TcpStream::connect("192.0.2.3:9090"))
        .expect("connect");
    let (mut served, _) = listener.accept().expect("accept");
    for at in 0..3 {
        lab.nodes[at].with(|d| d.set_alive(2, false)).expect("mark");
    }
    for _ in 0..16 {
        let said = ask(&lab.client, node_address(3), 8080).expect("published");
        assert!(said.starts_with("task10"), "{said}");
    }
    // Another agent takes over: programs are replaced, maps and flows stay.
    for node in &mut lab.nodes {
        drop(node.datapath.take());
        node.open();
    }
    let reports = lab.sync();
    assert!(
        reports
            .iter()
            .all(|r| r.attached.is_empty() && r.detached.is_empty()),
        "{reports:?}"
    );
    stream.write_all(b"still there").expect("send");
    let mut buffer = [0; 11];
    served.read_exact(&mut buffer).expect("receive");
    assert_eq!(&buffer, b"still there");
}

/// Sends a megabyte to a server that counts, and expects the count back.
fn push(from: &Space, to: Ipv4Addr, port: u16) -> std::io::Result<()> {
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(IpAddr::V4(to), port), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&vec![0x5a; 1 << 20])?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        assert_eq!(said, (1 << 20).to_string());
        Ok(())
    })
}

/// A server that says how many good bytes it got.
fn count(space: &Space, port: u16) {
    let listener = space
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .expect("listen");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut bytes = Vec::new();
            let good = match stream.read_to_end(&mut bytes) {
                Ok(_) => bytes.iter().filter(|b| **b == 0x5a).count(),
                Err(_) => 0,
            };
            if stream.write_all(good.to_string().as_bytes()).is_err() {
                continue;
            }
        }
    });
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

fn set_dont_fragment(socket: &UdpSocket) {
    use std::os::fd::AsRawFd;
    let value: libc::c_int = libc::IP_PMTUDISC_DO;
    // SAFETY: setsockopt reads one int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
}

#[test]
fn much_data_goes_through_published_ports() {
    let mut lab = mesh();
    for at in [0, 1] {
        count(&lab.containers[at].space, 90);
    }
    lab.tables.published.push(PublishedEntry {
        published_port: 9090,
        target_port: 90,
        ..published(&[(10, 1), (11, 2)])
    });
    lab.sync();
    for node in 1..=3 {
        for _ in 0..4 {
            push(&lab.client, node_address(node), 9090).expect("published");
        }
    }
}

#[test]
fn a_flow_older_than_the_table_finds_its_task() {
    let mut lab = mesh();
    let third = lab.container(2, &[(INGRESS, ingress(12))]);
    serve(&lab.containers[third].space, 80, "task12");
    let listener = lab.containers[0]
        .space
        .run(|| TcpListener::bind("0.0.0.0:90"))
        .expect("listen");
    let entry = PublishedEntry {
        published_port: 9090,
        target_port: 90,
        ..published(&[(10, 1)])
    };
    lab.tables.published.push(entry.clone());
    lab.sync();
    let connect = |entry: u32| {
        let stream = lab
            .client
            .run(|| TcpStream::connect((node_address(entry), 9090)))
            .expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream
    };
    let mut streams: Vec<(TcpStream, TcpStream)> = (0..12)
        .map(|at| {
            let stream = connect(1 + at % 3);
            (stream, listener.accept().expect("accept").0)
        })
        .collect();
    // Two more tasks: most rows have another first rank now.
    let more = published(&[(10, 1), (11, 2), (12, 3)]);
    lab.tables.published.pop();
    lab.tables.published.push(PublishedEntry {
        tasks: more.tasks,
        ..entry.clone()
    });
    lab.sync();
    let check = |streams: &mut Vec<(TcpStream, TcpStream)>| {
        for (stream, served) in streams {
            stream.write_all(b"ping").expect("send");
            let mut buffer = [0; 4];
            served.read_exact(&mut buffer).expect("receive");
            served.write_all(b"pong").expect("reply");
            stream.read_exact(&mut buffer).expect("reply received");
            assert_eq!(&buffer, b"pong");
        }
    };
    check(&mut streams);
    // Their task drains: they go on, new ones go elsewhere.
    let mut draining = published(&[(10, 1), (11, 2), (12, 3)]);
    draining.tasks[0].draining = true;
    lab.tables.published.pop();
    lab.tables.published.push(PublishedEntry {
        tasks: draining.tasks,
        ..entry
    });
    lab.sync();
    check(&mut streams);
    let flows = lab.nodes[0]
        .with(|d| d.established_flows_to(INGRESS, IpAddr::V4(ingress(10))))
        .expect("flows");
    assert_eq!(flows, 12);
    drop(streams);
    std::thread::sleep(Duration::from_millis(100));
    let flows = lab.nodes[0]
        .with(|d| d.established_flows_to(INGRESS, IpAddr::V4(ingress(10))))
        .expect("flows");
    assert_eq!(flows, 0, "closed connections are no reason to wait");
    let later = Datapath::now().expect("a clock") + Duration::from_secs(60);
    let report = lab.nodes[0].with(|d| d.collect_flows(later)).expect("collect");
    assert!(report.expired >= 12 && report.established == 0, "{report:?}");
}

#[test]
fn a_published_udp_port_answers_from_the_dialed_address() {
    let mut lab = mesh();
    for at in [0, 1] {
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
    let entry = PublishedEntry {
        protocol: Protocol::Udp,
        published_port: 5353,
        target_port: 53,
        ..published(&[(10, 1), (11, 2)])
    };
    lab.tables.published.push(entry.clone());
    lab.tables.published.push(PublishedEntry {
        published_port: 5354,
        target_port: 54,
        ..entry.clone()
    });
    lab.tables.published.push(PublishedEntry {
        published_port: 5355,
        tasks: vec![],
        ..entry
    });
    lab.sync();
    let send = |node: u32, port: u16, payload: &[u8]| {
        lab.client.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            socket.connect((node_address(node), port))?;
            socket.send(payload)?;
            let mut buffer = [0; 2048];
            socket.recv(&mut buffer)
        })
    };
    for node in 1..=3 {
        for _ in 0..4 {
            assert_eq!(send(node, 5353, b"hello").expect("echo"), 5);
            assert_eq!(send(node, 5353, &[3; 1900]).expect("echo in fragments"), 1900);
        }
        // The task's own refusal (its kernel sends a few a second), and that of a port without a task.
        for port in [5354, 5355] {
            let error = send(node, port, b"x").expect_err("nobody listens");
            assert_eq!(
                error.kind(),
                ErrorKind::ConnectionRefused,
                "{port} on node {node}"
            );
        }
    }
}

#[test]
fn filters_of_older_kernels_do_the_same() {
    let mut lab = mesh_at(Hook::Clsact);
    let all_answer = |lab: &Lab| {
        for node in 1..=3 {
            let said = ask(&lab.client, node_address(node), 8080).expect("published");
            assert!(said.ends_with(&format!(" {CLIENT}")), "{said}");
        }
    };
    all_answer(&lab);
    for node in &mut lab.nodes {
        drop(node.datapath.take());
    }
    all_answer(&lab);
    for node in &mut lab.nodes {
        node.open();
    }
    let reports = lab.sync();
    assert!(
        reports
            .iter()
            .all(|r| r.attached.is_empty() && r.detached.is_empty()),
        "{reports:?}"
    );
    all_answer(&lab);
    // Leaving the swarm takes the filters away.
    let node = &mut lab.nodes[0];
    let datapath = node.datapath.take().expect("open");
    node.space.run(|| datapath.close(true)).expect("close");
    refused_at_once(&lab.client, node_address(1), 8080);
}
