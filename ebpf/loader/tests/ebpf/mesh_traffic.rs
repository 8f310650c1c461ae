//! Real traffic to published ports over three nodes.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use skep_ebpf_loader::*;

use crate::lab::{CLIENT, Lab, MESH, node_address};
use crate::peers::*;

fn published(tasks: &[(u8, u32)]) -> PublishedEntry {
    PublishedEntry {
        protocol: Protocol::Tcp,
        published_port: 8080,
        target_port: 80,
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

/// Three nodes; tasks on the first two, port 8080 on all.
fn mesh() -> Lab {
    mesh_at(hook_of_kernel())
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
        lab.nodes[at].liveness().mark(2, false).expect("mark");
    }
    for _ in 0..16 {
        let said = ask(&lab.client, node_address(3), 8080).expect("published");
        assert!(said.starts_with("task10"), "{said}");
    }
    // Another agent takes over: programs are replaced, maps and flows stay. One of another version was here once.
    for node in &mut lab.nodes {
        drop(node.datapath.take());
        std::fs::create_dir_all(node.config.pin_dir.join("v0/link_from_uplink_9")).expect("leftovers");
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
        .with(|d| d.flow_tables()?.established_to(INGRESS, IpAddr::V4(ingress(10))))
        .expect("flows");
    assert_eq!(flows, 12);
    drop(streams);
    std::thread::sleep(Duration::from_millis(100));
    let flows = lab.nodes[0]
        .with(|d| d.flow_tables()?.established_to(INGRESS, IpAddr::V4(ingress(10))))
        .expect("flows");
    assert_eq!(flows, 0, "closed connections are no reason to wait");
    let later = Datapath::now().expect("a clock") + Duration::from_secs(60);
    let report = lab.nodes[0]
        .with(|d| d.flow_tables()?.collect(later))
        .expect("collect");
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
