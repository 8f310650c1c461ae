//! The life of a data plane: opened, told, taken over by a new agent, removed; with both kinds of hooks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use skep_ebpf_common::{ENDPOINT_VIP, EndpointKey, EndpointValue, PublishedKey, PublishedValue};
use skep_ebpf_loader::*;

use crate::lab::{Lab, Node, Space};

const VNI: u32 = 4097;

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, last)
}

fn lab(hook: Hook) -> Lab {
    let mut lab = Lab::at(1, hook);
    lab.network(VNI, "10.0.1.0/24", true);
    lab.container(0, &[(VNI, address(3))]);
    lab.container(0, &[(VNI, address(4))]);
    lab.tables.services.push(ServiceEntry {
        vni: VNI,
        vip: IpAddr::V4(address(2)),
        backends: vec![IpAddr::V4(address(3)), IpAddr::V4(address(4))],
    });
    lab.tables.published.push(published(8080, rows::ALGORITHM));
    lab
}

fn published(port: u16, algorithm: u32) -> PublishedEntry {
    PublishedEntry {
        protocol: Protocol::Tcp,
        published_port: port,
        target_port: 80,
        seed: 7,
        rows_log2: 6,
        algorithm,
        ingress_vni: VNI,
        mode: IngressMode::Mesh,
        ingress_address: None,
        tasks: vec![PublishedTask {
            task_hash: 1,
            address: IpAddr::V4(address(3)),
            node: 1,
            draining: false,
        }],
    }
}

fn pin_dir(node: &Node) -> PathBuf {
    node.config.pin_dir.join(format!("v{}", node.build.layout))
}

fn pins(node: &Node) -> BTreeSet<String> {
    let entries = std::fs::read_dir(pin_dir(node)).expect("pins");
    entries
        .map(|entry| entry.expect("a pin").file_name().to_string_lossy().into_owned())
        .collect()
}

fn read<K: aya::Pod + Ord, V: aya::Pod>(node: &Node, name: &str) -> BTreeMap<K, V> {
    let data = MapData::from_pin(pin_dir(node).join(name)).expect("pinned");
    let map: HashMap<MapData, K, V> = Map::HashMap(data).try_into().expect("typed");
    map.iter().collect::<Result<_, _>>().expect("read")
}

/// Names of our programs on an interface's ingress, as another tool sees them.
fn seen_by_others(space: &Space, interface: &str, hook: Hook) -> usize {
    match hook {
        Hook::Tcx => {
            let (_, programs) = space
                .run(|| {
                    aya::programs::SchedClassifier::query_tcx(interface, aya::programs::TcAttachType::Ingress)
                })
                .expect("query");
            programs.len()
        }
        Hook::Clsact => {
            let output = Command::new("tc")
                .args(["-n", &space.name, "filter", "show", "dev", interface, "ingress"])
                .output()
                .expect("tc");
            String::from_utf8_lossy(&output.stdout)
                .matches("handle 0x736b65")
                .count()
        }
    }
}

/// Waits until others see this many of our programs: the kernel ends an unpinned link in a work queue.
fn ends_with(space: &Space, interface: &str, hook: Hook, count: usize) {
    for _ in 0..100 {
        if seen_by_others(space, interface, hook) == count {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!(
        "{interface} has {} programs, not {count}",
        seen_by_others(space, interface, hook)
    );
}

fn vip(node: &Node) -> Option<EndpointValue> {
    let key = EndpointKey {
        network: VNI,
        address: skep_ebpf_common::Address::v4(u32::from_ne_bytes(address(2).octets())),
    };
    read::<EndpointKey, EndpointValue>(node, "ENDPOINTS").remove(&key)
}

fn whole_life(hook: Hook) {
    let mut lab = lab(hook);
    let veth = lab.containers[0].endpoints[0].local.expect("local").ifindex;
    let report = lab.sync().remove(0);
    let attached: BTreeSet<u32> = report.attached.iter().copied().collect();
    assert!(
        attached.contains(&veth) && attached.contains(&lab.nodes[0].uplink),
        "{report:?}"
    );
    assert_eq!(seen_by_others(&lab.nodes[0].space, "v1x0", hook), 1);
    assert_eq!(
        vip(&lab.nodes[0]).map(|v| (v.kind, v.backends)),
        Some((ENDPOINT_VIP, 2))
    );
    assert_eq!(
        lab.sync().remove(0),
        SyncReport::default(),
        "nothing is left to do"
    );
    carries_traffic(&lab);

    // One port that this version cannot serve takes nothing away from the others.
    lab.tables.published.push(published(9090, rows::ALGORITHM + 1));
    lab.tables.services[0].backends.pop();
    let tables = lab.tables_of(0);
    let report = lab.nodes[0].with(|d| d.sync(&tables)).expect("sync");
    assert_eq!(
        report.refused.iter().map(|(port, _)| *port).collect::<Vec<_>>(),
        [9090]
    );
    assert_eq!(vip(&lab.nodes[0]).map(|v| v.backends), Some(1));
    lab.tables.published.pop();

    take_over(&mut lab, hook, veth);

    another_layout(&mut lab, hook);

    let node = &mut lab.nodes[0];
    let datapath = node.datapath.take().expect("open");
    node.space.run(|| datapath.close(true)).expect("close");
    assert!(!pin_dir(node).exists());
    for interface in ["v2x0", "eth0", "skep1", "skep-vxlan"] {
        ends_with(&node.space, interface, hook, 0);
    }
}

/// From outside to a published port, and from one container to the other.
fn carries_traffic(lab: &Lab) {
    let listener = lab.containers[0]
        .space
        .run(|| TcpListener::bind("0.0.0.0:80"))
        .expect("listen");
    for (from, to) in [
        (&lab.client, "192.0.2.1:8080"),
        (&lab.containers[1].space, "10.0.1.3:80"),
    ] {
        let mut stream = from.run(|| TcpStream::connect(to)).expect("connect");
        let (mut served, peer) = listener.accept().expect("accept");
        assert_eq!(
            peer.ip(),
            stream.local_addr().expect("address").ip(),
            "the client's own address"
        );
        served.write_all(b"here").expect("send");
        let mut said = [0; 4];
        stream.read_exact(&mut said).expect("receive");
        assert_eq!(&said, b"here");
    }
}

/// An agent ends, an interface goes and its number comes back as somebody else's, another agent starts.
fn take_over(lab: &mut Lab, hook: Hook, veth: u32) {
    let before: BTreeMap<PublishedKey, PublishedValue> = read(&lab.nodes[0], "PUBLISHED");
    assert_eq!(before.len(), 1);
    drop(lab.nodes[0].datapath.take());
    assert_eq!(
        seen_by_others(&lab.nodes[0].space, "v2x0", hook),
        1,
        "it goes on forwarding"
    );
    lab.nodes[0].space.ip("link del v1x0");
    lab.nodes[0].space.ip(&format!(
        "link add foreign index {veth} type veth peer name other"
    ));
    lab.nodes[0].open();
    assert_eq!(seen_by_others(&lab.nodes[0].space, "foreign", hook), 0);
    assert_eq!(
        seen_by_others(&lab.nodes[0].space, "v2x0", hook),
        1,
        "replaced, not doubled"
    );
    assert_eq!(
        read::<PublishedKey, PublishedValue>(&lab.nodes[0], "PUBLISHED"),
        before
    );

    lab.containers.remove(0);
    lab.tables.services[0].backends = vec![IpAddr::V4(address(4))];
    let report = lab.sync().remove(0);
    assert!(
        report.attached.is_empty() && report.detached.is_empty(),
        "{report:?}"
    );
    let left = pins(&lab.nodes[0]);
    assert!(
        !left.iter().any(|pin| pin.ends_with(&format!("_{veth}"))),
        "{left:?}"
    );
}

/// An agent with another layout of maps starts: programs of the old one go when the new ones know everything.
fn another_layout(lab: &mut Lab, hook: Hook) {
    let older = pin_dir(&lab.nodes[0]);
    drop(lab.nodes[0].datapath.take());
    lab.nodes[0].build.layout += 1;
    lab.nodes[0].open();
    assert!(older.exists());
    assert_eq!(
        seen_by_others(&lab.nodes[0].space, "skep-vxlan", hook),
        1,
        "the old one still"
    );
    lab.sync();
    assert!(!older.exists());
    for interface in ["v2x0", "eth0", "skep1", "skep-vxlan"] {
        ends_with(&lab.nodes[0].space, interface, hook, 1);
    }
}

#[test]
fn a_whole_life_with_tcx() {
    whole_life(Hook::Tcx);
}

#[test]
fn a_whole_life_with_clsact() {
    whole_life(Hook::Clsact);
}

#[test]
fn a_map_of_another_build_is_refused() {
    let mut lab = lab(hook_of_kernel());
    drop(lab.nodes[0].datapath.take());
    let pins = pin_dir(&lab.nodes[0]);
    std::fs::rename(pins.join("NODES"), pins.join("NETWORKS_KEPT")).expect("rename");
    std::fs::rename(pins.join("NETWORKS"), pins.join("NODES")).expect("rename");
    let config = lab.nodes[0].config.clone();
    let error = lab.nodes[0]
        .space
        .run(|| Datapath::open(config))
        .expect_err("another size");
    assert!(error.to_string().contains("NODES"), "{error}");
    std::fs::rename(pins.join("NODES"), pins.join("NETWORKS")).expect("rename");
    std::fs::rename(pins.join("NETWORKS_KEPT"), pins.join("NODES")).expect("rename");
    lab.nodes[0].open();
}
