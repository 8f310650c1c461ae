//! Tests of the tables.

use super::*;
use proptest::prelude::*;
use skep_control::model::{
    IpamConfig, PeerItem, Protocol as ModelProtocol, PublishedTask as ModelTask, RowsSpec, item_key,
};
use skep_ebpf_loader::Protocol;

const SELF: u32 = 1;

fn items(kinds: Vec<ItemKind>) -> Items {
    kinds
        .into_iter()
        .map(|kind| (item_key(&kind), Item { kind: Some(kind) }))
        .collect()
}

fn network() -> ItemKind {
    ItemKind::Network(NetworkItem {
        network_id: "net".to_string(),
        name: "app".to_string(),
        vni: 4097,
        ipam: vec![IpamConfig {
            subnet: "10.0.1.0/24".to_string(),
            range: String::new(),
            gateway: "10.0.1.1".to_string(),
        }],
        ..Default::default()
    })
}

fn peer(index: u32) -> ItemKind {
    ItemKind::Peer(PeerItem {
        node_id: format!("node{index}"),
        index,
        underlay: format!("192.0.2.{index}"),
        ready: true,
        ..Default::default()
    })
}

fn service() -> ItemKind {
    ItemKind::Service(ServiceItem {
        service_id: "web".to_string(),
        network_id: "net".to_string(),
        name: "web".to_string(),
        vip: "10.0.1.2".to_string(),
        aliases: Vec::new(),
    })
}

fn endpoint(host: u8, node: u32, draining: bool) -> ItemKind {
    ItemKind::Endpoint(EndpointItem {
        id: format!("task{host}"),
        network_id: "net".to_string(),
        service_id: "web".to_string(),
        address: format!("10.0.1.{host}"),
        node_index: node,
        names: Vec::new(),
        draining,
    })
}

fn published(port: u32) -> ItemKind {
    let task = |id: &str, node| ModelTask {
        task_id: id.to_string(),
        address: "10.255.0.3".to_string(),
        node_index: node,
        draining: node == 3,
    };
    ItemKind::Published(PublishedItem {
        service_id: "web".to_string(),
        service_name: "web".to_string(),
        ports: vec![PortConfig {
            published_port: port,
            target_port: 80,
            ..Default::default()
        }],
        rows: RowsSpec {
            seed: 7,
            rows_log2: 12,
            algorithm: 1,
        },
        tasks: vec![task("t1", 2), task("t2", 3)],
        ingress_vni: 4096,
        mode: 0,
        ingress_address: String::new(),
    })
}

fn local(host: u8, ifindex: u32) -> Local {
    Local {
        network_id: "net".to_string(),
        vni: 4097,
        address: [10, 0, 1, host].into(),
        ifindex,
        container: ifindex,
        internal: false,
        ports: Vec::new(),
    }
}

fn address(host: u8) -> IpAddr {
    IpAddr::from([10, 0, 1, host])
}

/// Inputs with nothing but items, marks and local endpoints.
fn with<T>(
    items: &Items,
    dead: &[u32],
    locals: &[Local],
    held: &BTreeSet<Port>,
    then: impl FnOnce(&Inputs<'_>) -> T,
) -> T {
    let alive = dead.iter().map(|&node| (node, false)).collect();
    let locals = locals
        .iter()
        .map(|local| (local.ifindex.to_string(), local.clone()))
        .collect();
    then(&Inputs {
        items,
        alive: &alive,
        locals: &locals,
        uplinks: &[],
        held,
        withdrawn: &BTreeMap::new(),
        places: &Places::new(),
        self_index: SELF,
        mtu: 1450,
    })
}

/// With what the nodes say of their ended tasks.
fn build_without(items: &Items, withdrawn: &[(u32, &str)], locals: &[Local]) -> (Built, Items) {
    let mut hashes: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for &(node, task) in withdrawn {
        hashes.entry(node).or_default().insert(task_hash(task));
    }
    with(items, &[], locals, &BTreeSet::new(), |inputs| {
        let inputs = Inputs {
            withdrawn: &hashes,
            ..*inputs
        };
        (build(&inputs), visible(&inputs))
    })
}

fn build_with(items: &Items, dead: &[u32], locals: &[Local]) -> Built {
    with(items, dead, locals, &BTreeSet::new(), build)
}

/// The bytes on which all nodes of a swarm agree. SHA-256 of "abc" is the first example of FIPS 180-4.
#[test]
fn task_hash_is_golden() {
    assert_eq!(task_hash("abc"), 0xba78_16bf_8f01_cfea);
    assert_eq!(task_hash("0123456789abcdefghijklmno"), 0xd3cc_908a_6a9e_94a2);
}

#[test]
fn a_vip_without_tasks_stands_in_the_tables() {
    let built = build_with(&items(vec![network(), service()]), &[], &[]);
    assert_eq!(
        built.tables.services,
        [ServiceEntry {
            vni: 4097,
            vip: address(2),
            backends: Vec::new()
        }]
    );
    assert!(built.problems.is_empty());
}

#[test]
fn backends_run_and_answer() {
    let all = items(vec![
        network(),
        service(),
        peer(1),
        peer(2),
        peer(3),
        endpoint(3, 1, false),
        endpoint(4, 1, false),
        endpoint(5, 2, false),
        endpoint(6, 2, true),
        endpoint(7, 3, false),
    ]);
    // 10.0.1.4 is this node's, but not plugged in; 10.0.1.6 drains; node 3 is missed.
    let built = build_with(&all, &[3], &[local(3, 30)]);
    assert_eq!(built.tables.services[0].backends, [address(3), address(5)]);
    let nodes: Vec<u32> = built.tables.nodes.iter().map(|node| node.index).collect();
    assert_eq!(nodes, [1, 2, 3]);
    // Withdrawn ones stay reachable for the flows they have.
    let reachable: Vec<IpAddr> = built
        .tables
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address)
        .collect();
    assert_eq!(reachable, [3, 5, 6, 7].map(address));
}

#[test]
fn names_follow_the_same_rule_as_backends() {
    let all = items(vec![
        network(),
        service(),
        endpoint(3, 1, false),
        endpoint(5, 2, false),
        endpoint(7, 3, false),
    ]);
    let seen = with(&all, &[3], &[local(3, 30)], &BTreeSet::new(), visible);
    let draining: Vec<bool> = endpoints(&seen).map(|endpoint| endpoint.draining).collect();
    assert_eq!(draining, [false, false, true]);
}

#[test]
fn local_endpoints_stand_before_any_manager_knows() {
    let built = build_with(&items(vec![network()]), &[], &[local(9, 31)]);
    let plugged = LocalEndpoint {
        ifindex: 31,
        container: 31,
    };
    let expected = EndpointEntry {
        vni: 4097,
        address: address(9),
        node: SELF,
        local: Some(plugged),
    };
    assert_eq!(built.tables.endpoints, [expected]);
}

#[test]
fn published_ports_keep_dead_and_draining_tasks_in_their_rows() {
    let built = build_with(&items(vec![published(8080)]), &[2], &[]);
    let entry = &built.tables.published[0];
    assert_eq!(
        (entry.published_port, entry.target_port, entry.protocol),
        (8080, 80, Protocol::Tcp)
    );
    let tasks: Vec<(u32, bool)> = entry
        .tasks
        .iter()
        .map(|task| (task.node, task.draining))
        .collect();
    assert_eq!(tasks, [(2, false), (3, true)]);
}

#[test]
fn a_held_port_is_left_out() {
    let port = |number| {
        BTreeSet::from([Port {
            protocol: Protocol::Tcp,
            number,
        }])
    };
    let all = items(vec![published(8080)]);
    assert!(
        with(&all, &[], &[], &port(8080), build)
            .tables
            .published
            .is_empty()
    );
    assert_eq!(with(&all, &[], &[], &port(80), build).tables.published.len(), 1);
}

#[test]
fn what_cannot_be_done_is_said() {
    let mut kind = published(8080);
    if let ItemKind::Published(published) = &mut kind {
        published.ports[0].protocol = ModelProtocol::Sctp as i32;
    }
    let mut broken = network();
    if let ItemKind::Network(network) = &mut broken {
        network.ipam[0].subnet = "x".to_string();
    }
    let built = build_with(&items(vec![kind, broken]), &[], &[]);
    assert!(built.tables.published.is_empty() && built.tables.networks.is_empty());
    assert_eq!(built.problems.len(), 2);
}

proptest! {
    /// No backend is draining, on a missed node, or on this node without being plugged in; and no address stands
    /// twice in a network.
    #[test]
    fn backends_can_answer(
        tasks in proptest::collection::vec((3u8..250, 1u32..6, any::<bool>()), 0..40),
        dead in proptest::collection::vec(2u32..6, 0..3),
        plugged in proptest::collection::btree_set(3u8..250, 0..20),
    ) {
        let mut kinds = vec![network(), service()];
        kinds.extend(tasks.iter().map(|&(host, node, draining)| endpoint(host, node, draining)));
        let all = items(kinds);
        let locals: Vec<Local> = plugged.iter().map(|&host| local(host, u32::from(host))).collect();
        let built = build_with(&all, &dead, &locals);
        for backend in &built.tables.services[0].backends {
            let item = endpoints(&all).find(|item| parse_address(&item.address) == Some(*backend)).unwrap();
            prop_assert!(!item.draining);
            prop_assert!(!dead.contains(&item.node_index));
            prop_assert!(item.node_index != SELF || locals.iter().any(|local| IpAddr::V4(local.address) == *backend));
        }
        let mut seen = BTreeSet::new();
        for endpoint in &built.tables.endpoints {
            prop_assert!(seen.insert((endpoint.vni, endpoint.address)));
        }
    }
}

#[test]
fn tasks_that_ended_are_nowhere() {
    let all = items(vec![
        network(),
        service(),
        endpoint(3, SELF, false),
        endpoint(4, 2, false),
        endpoint(5, 2, false),
        published(8080),
    ]);
    let words = [(SELF, "task3"), (2, "task4"), (2, "t1"), (4, "task5"), (4, "t2")];
    let (built, seen) = build_without(&all, &words, &[local(3, 30)]);
    // What node 4 says of a task of node 2 or 3 counts for nothing.
    assert_eq!(built.tables.services[0].backends, [address(5)]);
    let tasks: Vec<u64> = built.tables.published[0]
        .tasks
        .iter()
        .map(|task| task.task_hash)
        .collect();
    assert_eq!(tasks, [task_hash("t2")]);
    let named: Vec<&str> = endpoints(&seen)
        .filter(|endpoint| !endpoint.draining)
        .map(|endpoint| endpoint.id.as_str())
        .collect();
    assert_eq!(named, ["task5"]);
}

#[test]
fn a_local_port_has_the_tasks_of_this_node_only() {
    let ItemKind::Published(mut item) = published(8080) else {
        unreachable!()
    };
    item.mode = skep_control::model::IngressMode::Local as i32;
    item.ingress_address = "192.168.50.100".to_string();
    item.tasks[0].node_index = SELF;
    let built = build_with(&items(vec![ItemKind::Published(item)]), &[], &[]);
    let entry = &built.tables.published[0];
    assert_eq!(entry.mode, IngressMode::Local);
    assert_eq!(entry.ingress_address, Some(IpAddr::from([192, 168, 50, 100])));
    let nodes: Vec<u32> = entry.tasks.iter().map(|task| task.node).collect();
    assert_eq!(nodes, [SELF]);
}
