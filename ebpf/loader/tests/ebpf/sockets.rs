//! The node's own sockets: what they dial, what they are told of it, and what they may not bind.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_links;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, connect, listen, setsockopt, socket,
    sockopt,
};
use skep_ebpf_loader::*;

use crate::lab::{Lab, Node, Space, command};
use crate::peers::*;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn published(protocol: Protocol, port: u16, target_port: u16) -> PublishedEntry {
    PublishedEntry {
        protocol,
        published_port: port,
        target_port,
        seed: 42,
        rows_log2: 6,
        algorithm: rows::ALGORITHM,
        ingress_vni: INGRESS,
        mode: IngressMode::Mesh,
        ingress_address: None,
        tasks: vec![PublishedTask {
            task_hash: 10,
            address: IpAddr::V4(ingress(10)),
            node: 1,
            draining: false,
        }],
    }
}

/// `count` nodes; a task on the first serves TCP 8080 and UDP 5353 and 5354 (and DNS' port) of all.
fn lab(count: u32) -> Lab {
    let mut lab = Lab::new(count);
    lab.network(INGRESS, "10.255.0.0/24", true);
    let task = lab.container(0, &[(INGRESS, ingress(10))]);
    serve(&lab.containers[task].space, 80, "task10");
    for port in [5300, 5301] {
        echo(&lab.containers[task].space, port);
    }
    lab.tables.published = vec![
        published(Protocol::Tcp, 8080, 80),
        published(Protocol::Udp, 5353, 5300),
        published(Protocol::Udp, 5354, 5301),
        published(Protocol::Udp, 53, 5300),
    ];
    lab.sync();
    lab
}

/// A UDP server that answers with what it was sent, and whom it sees.
fn echo(space: &Space, port: u16) {
    let socket = space
        .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
        .expect("bind");
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let answer = [&buffer[..length], peer.ip().to_string().as_bytes()].concat();
            if socket.send_to(&answer, peer).is_err() {
                return;
            }
        }
    });
}

/// Connects, and answers what getpeername(2) says and what the server said.
fn dial(space: &Space, to: IpAddr, port: u16) -> io::Result<(SocketAddr, String)> {
    space.run(|| {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let peer = stream.peer_addr()?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok((peer, said))
    })
}

fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 256];
    let (length, from) = socket.recv_from(&mut buffer).expect("an answer");
    (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
}

fn udp(space: &Space, own: IpAddr) -> UdpSocket {
    let socket = space.run(|| UdpSocket::bind((own, 0))).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
}

/// IPv4 in the form that IPv6 sockets use.
fn mapped(address: Ipv4Addr) -> IpAddr {
    IpAddr::V6(address.to_ipv6_mapped())
}

#[test]
fn loopback_and_own_addresses_reach_published_ports_and_keep_their_names() {
    let lab = lab(2);
    for node in &lab.nodes {
        let own = node.address;
        let dialed = [
            LOCALHOST,
            IpAddr::from([127, 1, 2, 3]),
            own.into(),
            mapped(Ipv4Addr::LOCALHOST),
            mapped(own),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        for to in dialed {
            let (peer, said) = dial(&node.space, to, 8080).unwrap_or_else(|error| panic!("{to}: {error}"));
            assert_eq!(peer, SocketAddr::new(to, 8080));
            assert_eq!(said, format!("task10 {own}"), "{to}");
            let error = dial(&node.space, to, 8081).expect_err("not published");
            assert!(
                [ErrorKind::ConnectionRefused, ErrorKind::AddrNotAvailable].contains(&error.kind()),
                "{to}: {error}"
            );
        }
    }
    // Another node's address is dialed as it is, and its uplink answers.
    let (peer, _) = dial(&lab.nodes[0].space, lab.nodes[1].address.into(), 8080).expect("by the wire");
    assert_eq!(peer.ip(), IpAddr::V4(lab.nodes[1].address));
}

#[test]
fn datagrams_are_answered_from_what_was_dialed() {
    let lab = lab(2);
    let node = &lab.nodes[1];
    let own = IpAddr::V4(node.address);
    for (to, any) in [
        (LOCALHOST, Ipv4Addr::UNSPECIFIED.into()),
        (own, Ipv4Addr::UNSPECIFIED.into()),
        (mapped(node.address), Ipv6Addr::UNSPECIFIED.into()),
        (IpAddr::V6(Ipv6Addr::LOCALHOST), Ipv6Addr::UNSPECIFIED.into()),
    ] {
        let to = SocketAddr::new(to, 5353);
        let connected = udp(&node.space, any);
        connected.connect(to).expect("connect");
        assert_eq!(connected.peer_addr().expect("a peer"), to);
        connected.send(b"hello ").expect("send");
        assert_eq!(receive(&connected), (format!("hello {own}"), to));
        if to.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST) {
            // Without connect(2) there is no way from there to IPv4.
            continue;
        }
        let free = udp(&node.space, any);
        for _ in 0..2 {
            free.send_to(b"hello ", to).expect("send");
            assert_eq!(receive(&free), (format!("hello {own}"), to));
        }
    }
    // One socket, two destinations at once, and one that is none of ours.
    let elsewhere = lab.client.run(|| UdpSocket::bind("0.0.0.0:7000")).expect("bind");
    let free = udp(&node.space, Ipv4Addr::UNSPECIFIED.into());
    let (first, second) = (SocketAddr::new(own, 5353), SocketAddr::new(LOCALHOST, 5354));
    free.send_to(b"1", first).expect("send");
    free.send_to(b"2", second).expect("send");
    let answers: BTreeMap<SocketAddr, String> = [receive(&free), receive(&free)]
        .into_iter()
        .map(|(said, from)| (from, said))
        .collect();
    assert_eq!(
        answers,
        BTreeMap::from([(first, format!("1{own}")), (second, format!("2{own}"))])
    );
    free.send_to(b"3", (crate::lab::CLIENT, 7000)).expect("send");
    let mut buffer = [0; 8];
    let (_, from) = elsewhere.recv_from(&mut buffer).expect("arrives");
    assert_eq!(from.ip(), own);
}

#[test]
fn ingress_addresses_are_dialed_on_every_node() {
    let mut lab = lab(3);
    let shared = IpAddr::from([192, 0, 2, 50]);
    let dedicated = [IpAddr::from([192, 0, 2, 51]), IpAddr::from([192, 0, 2, 52])];
    let entry = |address, dedicated| IngressEntry {
        address,
        ifindex: 0,
        dedicated,
    };
    lab.tables.ingress = vec![
        entry(shared, false),
        entry(dedicated[0], true),
        entry(dedicated[1], true),
    ];
    // The same port on two addresses, for two services; the second one's task is on another node.
    let other = lab.container(1, &[(INGRESS, ingress(11))]);
    serve(&lab.containers[other].space, 80, "task11");
    for (address, task, node) in [(dedicated[0], 10, 1), (dedicated[1], 11, 2)] {
        let entry = published(Protocol::Tcp, 443, 80);
        lab.tables.published.push(PublishedEntry {
            ingress_address: Some(address),
            tasks: vec![PublishedTask {
                task_hash: task,
                address: IpAddr::V4(ingress(task as u8)),
                node,
                draining: false,
            }],
            ..entry
        });
    }
    lab.sync();
    for node in &lab.nodes {
        for (to, port, task) in [
            (shared, 8080, "task10"),
            (dedicated[0], 443, "task10"),
            (dedicated[1], 443, "task11"),
        ] {
            let (peer, said) = dial(&node.space, to, port).unwrap_or_else(|error| panic!("{to}: {error}"));
            assert_eq!(peer, SocketAddr::new(to, port));
            assert_eq!(said, format!("{task} {}", node.address), "{to}");
        }
        // Only there.
        let error = dial(&node.space, LOCALHOST, 443).expect_err("not published here");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        node.space
            .run(|| drop(TcpListener::bind((node.address, 443)).expect("free")));
    }
}

/// The agent's nftables table and sysctl make such sources the node's address.
#[test]
fn a_socket_bound_to_the_loopback_dials_too() {
    let lab = lab(1);
    let node = &lab.nodes[0];
    node.space
        .run(|| std::fs::write("/proc/sys/net/ipv4/conf/skep0/route_localnet", "1"))
        .expect("sysctl");
    let nft = format!("ip netns exec {} nft", node.space.name);
    command(&format!("{nft} add table ip t"));
    command(&format!(
        "{nft} add chain ip t c {{ type nat hook postrouting priority 100; }}"
    ));
    command(&format!(
        "{nft} add rule ip t c oifname skep0 snat to {}",
        node.address
    ));
    let socket = udp(&node.space, LOCALHOST);
    let to = SocketAddr::new(LOCALHOST, 5353);
    socket.send_to(b"hello ", to).expect("send");
    assert_eq!(receive(&socket), (format!("hello {}", node.address), to));
    let mut stream = node.space.run(|| {
        let socket = socket_tcp();
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("bind");
        connect(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 8080)).expect("connect");
        TcpStream::from(socket)
    });
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("an answer");
    assert_eq!(said, format!("task10 {}", node.address));
}

fn socket_tcp() -> std::os::fd::OwnedFd {
    socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .expect("socket")
}

fn in_use<T>(result: io::Result<T>, what: &str) {
    let error = result.err().unwrap_or_else(|| panic!("{what} was bound"));
    assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE), "{what}: {error}");
}

fn nobody_binds_published_ports(node: &Node) {
    let addresses: [IpAddr; 6] = [
        Ipv4Addr::UNSPECIFIED.into(),
        LOCALHOST,
        node.address.into(),
        mapped(node.address),
        Ipv6Addr::UNSPECIFIED.into(),
        Ipv6Addr::LOCALHOST.into(),
    ];
    node.space.run(|| {
        for address in addresses {
            in_use(TcpListener::bind((address, 8080)), &format!("{address} TCP"));
            in_use(UdpSocket::bind((address, 5353)), &format!("{address} UDP"));
        }
    });
}

#[test]
fn published_ports_cannot_be_bound() {
    let mut lab = lab(1);
    nobody_binds_published_ports(&lab.nodes[0]);
    lab.nodes[0].space.run(|| {
        drop(UdpSocket::bind("0.0.0.0:8080").expect("another protocol"));
        drop(TcpListener::bind("0.0.0.0:8082").expect("another port"));
        drop(TcpListener::bind("127.0.0.1:0").expect("any port"));
        // Resolvers keep the addresses that no client dials.
        drop(UdpSocket::bind("127.0.0.53:53").expect("a stub resolver"));
        in_use(UdpSocket::bind("0.0.0.0:53"), "everybody's DNS");
        in_use(UdpSocket::bind("192.0.2.1:53"), "the node's DNS");
        // The agent's own sockets.
        let socket = socket_tcp();
        setsockopt(&socket, sockopt::Mark, &GUARD_MARK).expect("mark");
        bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, 8080)).expect("the agent's");
    });
    lab.client
        .run(|| drop(TcpListener::bind("0.0.0.0:8080").expect("not on the node")));
    // While there is no agent, and after the next one came.
    drop(lab.nodes[0].datapath.take());
    nobody_binds_published_ports(&lab.nodes[0]);
    lab.nodes[0].open();
    nobody_binds_published_ports(&lab.nodes[0]);
    lab.tables.published.clear();
    lab.sync();
    lab.nodes[0]
        .space
        .run(|| drop(TcpListener::bind("0.0.0.0:8080").expect("free again")));
}

#[test]
fn who_was_there_before_is_reached() {
    let lab = lab(1);
    let node = &lab.nodes[0];
    let resolver = node.space.run(|| UdpSocket::bind("127.0.0.53:53")).expect("bind");
    let client = udp(&node.space, Ipv4Addr::UNSPECIFIED.into());
    client.send_to(b"name?", "127.0.0.53:53").expect("send");
    resolver.set_read_timeout(Some(PATIENCE)).expect("timeout");
    assert_eq!(receive(&resolver).0, "name?");
    // The service has the rest of the loopback, and the agent's socket is no resolver.
    let guard = node.space.run(|| {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .expect("socket");
        setsockopt(&socket, sockopt::Mark, &GUARD_MARK).expect("mark");
        bind(socket.as_raw_fd(), &SockaddrIn::new(192, 0, 2, 1, 53)).expect("bind");
        socket
    });
    for to in ["127.0.0.1:53", "192.0.2.1:53"] {
        client.send_to(b"name?", to).expect("send");
        let (said, from) = receive(&client);
        assert_eq!((said.as_str(), from.to_string().as_str()), ("name?192.0.2.1", to));
    }
    drop(guard);
    // A listener of IPv6 alone, older than the publication of its port.
    let mut lab = lab;
    let listener = lab.nodes[0].space.run(|| {
        let socket = socket(
            AddressFamily::Inet6,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .expect("socket");
        setsockopt(&socket, sockopt::Ipv6V6Only, &true).expect("V6ONLY");
        let any = nix::sys::socket::SockaddrIn6::from(
            "[::]:9090".parse::<std::net::SocketAddrV6>().expect("address"),
        );
        bind(socket.as_raw_fd(), &any).expect("bind");
        listen(&socket, Backlog::new(8).expect("a length")).expect("listen");
        TcpListener::from(socket)
    });
    lab.tables.published.push(published(Protocol::Tcp, 9090, 80));
    lab.sync();
    // The namespaces have no IPv6, so the connection itself fails; what counts is that it is not the service that answers.
    let answered = dial(&lab.nodes[0].space, IpAddr::V6(Ipv6Addr::LOCALHOST), 9090);
    assert!(answered.is_err(), "{answered:?}");
    let (_, said) = dial(&lab.nodes[0].space, LOCALHOST, 9090).expect("the service");
    assert_eq!(said, "task10 192.0.2.1");
    drop(listener);
}

#[test]
fn two_nodes_in_one_kernel_are_told_apart() {
    let mut lab = lab(2);
    // Node 2 alone forgets about the port.
    let mut tables = lab.tables_of(1);
    tables.published.clear();
    lab.nodes[1].with(|d| d.sync(&tables)).expect("sync");
    let listener = lab.nodes[1]
        .space
        .run(|| TcpListener::bind("127.0.0.1:8080"))
        .expect("free there");
    nobody_binds_published_ports(&lab.nodes[0]);
    let stream = lab.nodes[1]
        .space
        .run(|| TcpStream::connect("127.0.0.1:8080"))
        .expect("its own");
    let (_, client) = listener.accept().expect("accept");
    assert_eq!(stream.local_addr().expect("an address"), client);
    let (_, said) = dial(&lab.nodes[0].space, LOCALHOST, 8080).expect("the service");
    assert_eq!(said, "task10 192.0.2.1");
    // Nor is the client's namespace, or a container's, a node.
    for space in [&lab.client, &lab.containers[0].space] {
        let error = dial(space, LOCALHOST, 8080).expect_err("nobody listens there");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn without_cgroups_the_rest_works_and_the_report_says_so() {
    let mut lab = Lab::new(1);
    lab.network(INGRESS, "10.255.0.0/24", true);
    let task = lab.container(0, &[(INGRESS, ingress(10))]);
    serve(&lab.containers[task].space, 80, "task10");
    lab.tables.published = vec![published(Protocol::Tcp, 8080, 80)];
    let tables = lab.tables_of(0);
    let report = lab.nodes[0].with(|d| {
        without_cgroups();
        d.sync(&tables)
    });
    let [dialed, guarded] = &report.expect("sync").sockets[..] else {
        panic!("two problems are expected");
    };
    let words = "no cgroup2 file system is mounted with its root";
    assert!(
        matches!(dialed, SocketProblem::NotDialed(reason) if reason == words),
        "{dialed}"
    );
    assert!(
        matches!(guarded, SocketProblem::NotGuarded(reason) if reason == words),
        "{guarded}"
    );
    let said = ask(&lab.client, lab.nodes[0].address, 8080).expect("clients are served");
    assert_eq!(said, format!("task10 {}", crate::lab::CLIENT));
    let error = dial(&lab.nodes[0].space, LOCALHOST, 8080).expect_err("nothing leads there");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    // Each sync tries again.
    assert_eq!(lab.sync()[0].sockets, []);
    dial(&lab.nodes[0].space, LOCALHOST, 8080).expect("now it does");
}

/// Takes the cgroups away from this thread.
fn without_cgroups() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private");
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mounts");
    for line in mounts.lines().filter(|line| line.contains(" - cgroup2 ")) {
        let point = line.split(' ').nth(4).expect("a mount point");
        umount2(point, MntFlags::MNT_DETACH).expect("unmount");
    }
}

/// The node's pinned links on sockets: name, link id, program id.
fn links(node: &Node) -> BTreeMap<String, (u32, u32)> {
    let pins = node.config.pin_dir.join(format!("v{}", node.build.layout));
    let names = std::fs::read_dir(&pins)
        .expect("pins")
        .map(|entry| entry.expect("a pin").file_name().to_string_lossy().into_owned());
    let ours = names.filter(|name| name.starts_with("link_socket_"));
    ours.map(|name| {
        let link = FdLink::from(PinnedLink::from_pin(pins.join(&name)).expect("a link"));
        let info = link.info().expect("info");
        (name, (info.id(), info.program_id()))
    })
    .collect()
}

/// Does the kernel end this link? It does so in a work queue, once nothing holds it.
fn ends(link: u32) -> bool {
    (0..100).any(|_| {
        let gone = loaded_links().all(|found| !found.is_ok_and(|info| info.id() == link));
        if !gone {
            std::thread::sleep(Duration::from_millis(20));
        }
        gone
    })
}

#[test]
fn programs_are_replaced_in_place_and_go_with_their_node() {
    let mut lab = lab(1);
    let node = &lab.nodes[0];
    let own = SocketAddr::new(IpAddr::V4(node.address), 8080);
    let stream = node.space.run(|| TcpStream::connect(own)).expect("connect");
    let before = links(node);
    assert_eq!(before.len(), 9, "{before:?}");
    let node = &mut lab.nodes[0];
    drop(node.datapath.take());
    node.open();
    let after = links(node);
    for (name, (link, program)) in &before {
        assert_eq!(after[name].0, *link, "{name} is another link");
        assert_ne!(after[name].1, *program, "{name} has the old program");
    }
    assert_eq!(stream.peer_addr().expect("a peer"), own, "an old connection");
    let (peer, _) = dial(&node.space, own.ip(), 8080).expect("a new one");
    assert_eq!(peer, own);
    // A build with another layout: the old programs go on until its tables are complete.
    drop(node.datapath.take());
    node.build.layout += 1;
    node.open();
    assert_eq!(links(node), BTreeMap::new());
    let (peer, _) = dial(&node.space, own.ip(), 8080).expect("by the old programs");
    assert_eq!(peer, own);
    lab.sync();
    let node = &mut lab.nodes[0];
    let newer = links(node);
    assert!(
        newer.len() == 9 && after.values().all(|(link, _)| ends(*link)),
        "{newer:?}"
    );
    assert_eq!(stream.peer_addr().expect("a peer"), own, "an old connection");
    let (peer, _) = dial(&node.space, own.ip(), 8080).expect("by the new programs");
    assert_eq!(peer, own);
    let datapath = node.datapath.take().expect("open");
    node.space.run(|| datapath.close(true)).expect("close");
    assert!(newer.values().all(|(link, _)| ends(*link)));
    // A link loses its number a moment before its place.
    let refused = |_| {
        std::thread::sleep(Duration::from_millis(20));
        dial(&node.space, LOCALHOST, 8080).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    assert!((0..100).any(refused), "the programs are still at work");
}
