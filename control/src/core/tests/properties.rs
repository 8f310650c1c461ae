//! Properties that hold whatever is done to a swarm.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;

use super::world::*;
use crate::core::assign::{assign, withdrawn};
use crate::core::ingress::{ADDRESS_LABEL, MAX_OWNERS, MODE_LABEL, scope_of};
use crate::core::snapshot::{decode, encode};
use crate::core::state::*;
use crate::model::*;

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const NETWORKS: [&str; 3] = ["app", "db", "tiny"];
const SERVICES: [&str; 4] = ["web", "api", "WEB", "bad_"];

/// Something that may befall a swarm. Much of it is refused.
#[derive(Clone, Debug)]
enum Event {
    Node(&'static str, NodeState),
    Availability(&'static str, Availability),
    RemoveNode(&'static str),
    Network(&'static str, &'static str),
    RemoveNetwork(&'static str),
    Service(&'static str, ServiceSpec),
    Update(&'static str, ServiceSpec, bool),
    RemoveService(&'static str),
    Attach(u8, &'static str, &'static str),
    Detach(u8, &'static str),
    Address(u8, Option<&'static str>),
    RemoveAddress(u8),
    MoveAddress(u8, &'static str),
    /// The nth task is reported in a state, by its own node or another.
    Report(usize, TaskState, Option<&'static str>),
    Advance(i64),
    PlanOnce,
    Obey,
}

fn ingress_address(number: u8) -> String {
    format!("192.168.50.{}", 100 + number)
}

fn update_config() -> impl Strategy<Value = UpdateConfig> {
    (
        0u64..4,
        0i64..9,
        0i32..3,
        0i64..9,
        select(vec![0.0f32, 0.4, 1.0]),
        0i32..2,
    )
        .prop_map(
            |(parallelism, delay, failure_action, monitor, max_failure_ratio, order)| UpdateConfig {
                parallelism,
                delay: delay * SECOND,
                failure_action,
                monitor: monitor * SECOND,
                max_failure_ratio,
                order,
            },
        )
}

fn service_mode() -> impl Strategy<Value = ServiceMode> {
    prop_oneof![
        5 => (0u64..7).prop_map(|n| ServiceMode::Replicated(ReplicatedMode { replicas: Some(n) })),
        2 => Just(ServiceMode::Global(GlobalMode {})),
        2 => (0u64..4, 0u64..5).prop_map(|(max_concurrent, total_completions)| {
            ServiceMode::ReplicatedJob(ReplicatedJob { max_concurrent, total_completions })
        }),
        2 => Just(ServiceMode::GlobalJob(GlobalJob {})),
    ]
}

fn spec() -> impl Strategy<Value = ServiceSpec> {
    let port =
        (select(vec![0u32, 80, 81]), any::<bool>(), any::<bool>()).prop_map(|(published, udp, host)| {
            PortConfig {
                published_port: published,
                target_port: 80,
                protocol: i32::from(udp),
                publish_mode: i32::from(host),
                ..Default::default()
            }
        });
    let networks = prop::collection::btree_set(select(NETWORKS.to_vec()), 0..3);
    let ports = prop::collection::vec(port, 0..3);
    let restart = select(vec!["any", "none", "on-failure", "bogus"]);
    let mode = select(vec!["", "", "", "local", "dsr", "bogus"]);
    let labels = (mode, prop::option::weighted(0.3, 0u8..4));
    let restart = (restart, prop::option::of(update_config()));
    (
        service_mode(),
        0u8..3,
        networks,
        ports,
        restart,
        0u64..3,
        any::<bool>(),
        labels,
    )
        .prop_map(
            |(of_service, env, networks, ports, (restart, update), attempts, dnsrr, (mode, address))| {
                let mut spec = service_spec("", 0);
                spec.mode = Some(of_service);
                spec.update = update.filter(|_| !is_job(&spec));
                let labels = &mut spec.annotations.labels;
                if !mode.is_empty() {
                    labels.insert(MODE_LABEL.to_string(), mode.to_string());
                }
                if let Some(address) = address {
                    labels.insert(ADDRESS_LABEL.to_string(), ingress_address(address));
                }
                spec.task.container.env = vec![format!("V={env}")];
                let attach = |n: &str| NetworkAttachmentConfig {
                    target: n.to_string(),
                    ..Default::default()
                };
                spec.task.networks = networks.into_iter().map(attach).collect();
                let mode = dnsrr.then(|| "dnsrr".to_string());
                spec.endpoint = Some(EndpointSpec { mode, ports });
                spec.task.restart = Some(RestartPolicy {
                    condition: Some(restart.to_string()),
                    max_attempts: Some(attempts),
                    ..Default::default()
                });
                spec
            },
        )
}

fn event() -> impl Strategy<Value = Event> {
    let node = || select(NODES.to_vec());
    let network = || select(NETWORKS.to_vec());
    let service = || select(SERVICES.to_vec());
    let state = select(vec![
        TaskState::Accepted,
        TaskState::Running,
        TaskState::Complete,
        TaskState::Failed,
    ]);
    let reporter = prop_oneof![4 => Just(None), 1 => node().prop_map(Some)];
    let availability = select(vec![
        Availability::Active,
        Availability::Pause,
        Availability::Drain,
    ]);
    let subnet = select(vec!["", "", "10.9.0.0/29", "10.0.1.0/24", "nonsense"]);
    prop_oneof![
        2 => (node(), select(vec![NodeState::Ready, NodeState::Down, NodeState::Unknown])).prop_map(|(n, s)| Event::Node(n, s)),
        1 => (node(), availability).prop_map(|(n, a)| Event::Availability(n, a)),
        1 => node().prop_map(Event::RemoveNode),
        2 => (network(), subnet).prop_map(|(n, s)| Event::Network(n, s)),
        1 => network().prop_map(Event::RemoveNetwork),
        4 => (service(), spec()).prop_map(|(n, s)| Event::Service(n, s)),
        3 => (service(), spec(), any::<bool>()).prop_map(|(n, s, r)| Event::Update(n, s, r)),
        1 => service().prop_map(Event::RemoveService),
        2 => (0u8..4, node(), network()).prop_map(|(i, n, w)| Event::Attach(i, n, w)),
        1 => (0u8..4, node()).prop_map(|(i, n)| Event::Detach(i, n)),
        3 => (0u8..4, prop::option::weighted(0.2, node())).prop_map(|(i, n)| Event::Address(i, n)),
        1 => (0u8..4).prop_map(Event::RemoveAddress),
        1 => (0u8..4, node()).prop_map(|(i, n)| Event::MoveAddress(i, n)),
        4 => (0usize..30, state, reporter).prop_map(|(i, s, n)| Event::Report(i, s, n)),
        2 => (0i64..200).prop_map(Event::Advance),
        6 => Just(Event::PlanOnce),
        4 => Just(Event::Obey),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 1..60)
}

/// The command that an event stands for; `None` for time, plans and reports of the nodes' own.
fn change(world: &World, event: &Event) -> Option<Change> {
    let named = |spec: &ServiceSpec, name: &str| {
        let mut spec = spec.clone();
        spec.annotations.name = name.to_string();
        spec
    };
    Some(match event {
        Event::Node(id, state) if world.state.nodes.contains_key(*id) => Change::ReportNode(ReportNode {
            id: id.to_string(),
            state: Some(*state as i32),
            ..Default::default()
        }),
        Event::Node(id, _) => Change::CreateNode(CreateNode { node: node(id) }),
        Event::Availability(id, availability) => {
            let known = world.state.nodes.get(*id)?;
            let mut spec = known.spec.clone();
            spec.availability = *availability as i32;
            Change::UpdateNode(UpdateNode {
                id: id.to_string(),
                version: known.meta.version,
                spec,
            })
        }
        Event::RemoveNode(id) => Change::RemoveNode(RemoveNode {
            id: id.to_string(),
            force: false,
        }),
        Event::Network(name, subnet) => {
            let mut spec = NetworkSpec {
                attachable: *name != "db",
                ..Default::default()
            };
            spec.annotations.name = name.to_string();
            let subnet = if *name == "tiny" { "192.168.9.0/29" } else { subnet };
            if !subnet.is_empty() {
                let config = IpamConfig {
                    subnet: subnet.to_string(),
                    ..Default::default()
                };
                spec.ipam = Some(IpamOptions {
                    driver: None,
                    configs: vec![config],
                });
            }
            Change::CreateNetwork(CreateNetwork {
                id: name.to_string(),
                spec,
            })
        }
        Event::RemoveNetwork(id) => Change::RemoveNetwork(RemoveNetwork { id: id.to_string() }),
        Event::Service(name, spec) => {
            let id = name.to_string();
            Change::CreateService(CreateService {
                id,
                spec: named(spec, name),
            })
        }
        Event::Update(name, spec, rollback) => Change::UpdateService(UpdateService {
            id: name.to_string(),
            version: world.state.services.get(*name).map_or(0, |s| s.meta.version),
            spec: named(spec, name),
            rollback: *rollback,
        }),
        Event::RemoveService(id) => Change::RemoveService(RemoveService { id: id.to_string() }),
        Event::Attach(id, node, network) => Change::CreateAttachment(CreateAttachment {
            id: format!("a{id}"),
            node_id: node.to_string(),
            network: network.to_string(),
            ..Default::default()
        }),
        Event::Detach(id, node) => Change::UpdateAttachment(UpdateAttachment {
            id: format!("a{id}"),
            node_id: node.to_string(),
            remove: true,
            ..Default::default()
        }),
        Event::Address(number, only) => Change::CreateIngressAddress(CreateIngressAddress {
            id: ingress_address(*number),
            spec: IngressAddressSpec {
                address: format!("{}/24", ingress_address(*number)),
                interface: String::new(),
                constraints: only.iter().map(|node| format!("node.id=={node}")).collect(),
            },
        }),
        Event::RemoveAddress(number) => Change::RemoveIngressAddress(RemoveIngressAddress {
            id: ingress_address(*number),
        }),
        Event::MoveAddress(number, node) => Change::MoveIngressAddress(MoveIngressAddress {
            id: ingress_address(*number),
            node_id: node.to_string(),
        }),
        Event::Report(nth, state, reporter) => {
            let task = world.state.tasks.values().nth(*nth)?;
            let status = TaskStatus {
                state: *state as i32,
                timestamp: world.now,
                ..Default::default()
            };
            let node_id = reporter.map_or(task.node_id.clone(), str::to_string);
            let reports = vec![TaskReport {
                task_id: task.id.clone(),
                status,
            }];
            Change::ReportTasks(ReportTasks { node_id, reports })
        }
        Event::Advance(_) | Event::PlanOnce | Event::Obey => return None,
    })
}

fn befall(world: &mut World, event: &Event) {
    match event {
        Event::Advance(seconds) => world.now += seconds * SECOND,
        Event::PlanOnce => {
            for change in world.next_plan().changes() {
                world.apply(change);
            }
        }
        Event::Obey => {
            world.obey();
        }
        _ => {
            if let Some(change) = change(world, event) {
                let before = world.state.clone();
                let applied = world.apply(change);
                if applied.refused.is_some() {
                    let index = world.state.index;
                    assert_eq!(
                        ClusterState { index, ..before },
                        world.state,
                        "a refusal changed the state"
                    );
                }
            }
        }
    }
}

/// Every address has one holder, every VNI, subnet and published port too.
fn assert_allocation(state: &ClusterState) {
    let mut held: BTreeSet<(String, String)> = BTreeSet::new();
    let mut hold = |network: &str, cidr: &str| {
        let network_of = state.networks.get(network);
        let address = cidr.split('/').next().unwrap().to_string();
        if let Some(network) = network_of {
            let inside = network.ipam.iter().any(|c| {
                let subnet: ipnet::Ipv4Net = c.subnet.parse().unwrap();
                subnet.contains(&address.parse::<std::net::Ipv4Addr>().unwrap())
            });
            assert!(inside, "{address} is outside of its network");
        }
        assert!(
            held.insert((network.to_string(), address)),
            "{network} {cidr} is held twice"
        );
    };
    for network in state.networks.values() {
        network.ipam.iter().for_each(|c| hold(&network.id, &c.gateway));
    }
    for service in state.services.values() {
        service.vips.iter().for_each(|v| hold(&v.network_id, &v.address));
    }
    let of_tasks = state
        .tasks
        .values()
        .filter(|t| holds_addresses(t))
        .flat_map(|t| &t.networks);
    for attachment in of_tasks.chain(state.attachments.values().map(|a| &a.network)) {
        attachment
            .addresses
            .iter()
            .for_each(|a| hold(&attachment.network_id, a));
    }
    let vnis: BTreeSet<u32> = state.networks.values().map(|n| n.vni).collect();
    assert_eq!(vnis.len(), state.networks.len());
    let subnets: Vec<ipnet::Ipv4Net> = state
        .networks
        .values()
        .flat_map(|n| &n.ipam)
        .map(|c| c.subnet.parse().unwrap())
        .collect();
    for (n, one) in subnets.iter().enumerate() {
        assert!(
            subnets[n + 1..]
                .iter()
                .all(|other| !one.contains(other) && !other.contains(one))
        );
    }
    let mesh = state
        .services
        .values()
        .flat_map(|s| s.ports.iter().map(|p| (scope_of(s), p)))
        .filter(|(_, p)| p.publish_mode() == PublishMode::Ingress);
    let mut published = BTreeSet::new();
    for (scope, port) in mesh {
        assert!((30000..=32767).contains(&port.published_port) || port.published_port < 100);
        assert!(
            published.insert((scope, port.protocol, port.published_port)),
            "port {} twice",
            port.published_port
        );
    }
    for service in state.services.values() {
        let known = scope_of(service).is_none_or(|address| state.ingress_address(address).is_some());
        assert!(known, "a service asks for an address that is gone");
    }
}

/// Owners and observers are what they are meant to be, and every change of them has an epoch of its own.
fn assert_ranks(before: &ClusterState, after: &ClusterState) {
    for (id, address) in &after.ingress_addresses {
        let unique = |nodes: &[u32]| nodes.iter().collect::<BTreeSet<_>>().len() == nodes.len();
        assert!(unique(&address.owners) && address.owners.len() <= MAX_OWNERS);
        assert!(unique(&address.observers) && address.observers.is_sorted());
        let observers = address.observers.len();
        assert!(observers <= 2 || (observers % 2 == 1 && observers <= 7));
        assert!(address.moved_to == 0 || address.owners.first() == Some(&address.moved_to));
        let Some(known) = before
            .ingress_addresses
            .get(id)
            .filter(|a| a.index == address.index)
        else {
            assert!(
                address.index > before.last_ingress_index,
                "a number is given again"
            );
            continue;
        };
        let same = known.owners == address.owners && known.observers == address.observers;
        assert_eq!(address.epoch, known.epoch + u64::from(!same));
    }
}

/// A place has one wanted task, or two while one starts beside the other. Tasks made for a node are there and nowhere else.
/// A job never has more tasks at a time than it says, nor more that completed.
fn assert_slots(state: &ClusterState) {
    let mut wanted: BTreeMap<_, usize> = BTreeMap::new();
    for task in state.tasks.values().filter(|t| takes_place(t)) {
        let of_place = wanted.entry((&task.service_id, place_of(task))).or_default();
        *of_place += 1;
        assert!(*of_place <= 2, "three wanted tasks in one place");
        assert!(!task.preassigned || (task.slot == 0 && !task.node_id.is_empty()));
    }
    for service in state.services.values() {
        let Some(ServiceMode::ReplicatedJob(job)) = &service.spec.mode else {
            continue;
        };
        let iteration = service.job.map(|job| job.iteration);
        let tasks = || {
            let tasks = state.tasks.values().filter(|t| t.service_id == service.id);
            tasks.filter(|t| t.job_iteration == iteration)
        };
        let at_a_time = tasks().filter(|t| takes_place(t)).count() as u64;
        let completed = tasks().filter(|t| is_completed(t)).count() as u64;
        assert!(at_a_time <= job.max_concurrent && completed <= job.total_completions);
        assert!(at_a_time + completed <= job.total_completions);
        assert!(tasks().all(|t| t.slot < job.total_completions));
    }
}

fn addresses_freed(before: &ClusterState, after: &ClusterState) {
    for task in before.tasks.values().filter(|t| holds_addresses(t)) {
        if after.tasks.get(&task.id).is_some_and(|t| holds_addresses(t)) {
            continue;
        }
        for network in task
            .networks
            .iter()
            .filter(|n| after.networks.contains_key(&n.network_id))
        {
            for cidr in &network.addresses {
                let key = (
                    network.network_id.clone(),
                    cidr.split('/').next().unwrap().to_string(),
                );
                assert!(after.resting.contains_key(&key), "{key:?} does not rest");
            }
        }
    }
}

/// What the node may see: itself, the mesh, its networks, its own tasks.
fn assert_need_to_know(state: &ClusterState, node_id: &str) {
    let items = assign(state, node_id, &BTreeSet::new());
    let own_tasks = state
        .tasks
        .values()
        .filter(|t| t.node_id == node_id && is_assigned(t) && !has_ended(t));
    let own_attachments = state.attachments.values().filter(|a| a.node_id == node_id);
    let hosted: BTreeSet<&str> = own_tasks
        .clone()
        .flat_map(|t| &t.networks)
        .chain(own_attachments.clone().map(|a| &a.network))
        .map(|n| n.network_id.as_str())
        .collect();
    for (key, item) in &items {
        let kind = item.kind.as_ref().unwrap();
        assert_eq!(*key, item_key(kind));
        match kind {
            ItemKind::Network(n) => assert!(hosted.contains(n.network_id.as_str())),
            ItemKind::Service(s) => assert!(hosted.contains(s.network_id.as_str())),
            ItemKind::Endpoint(e) => assert!(hosted.contains(e.network_id.as_str())),
            ItemKind::Task(t) => assert_eq!(state.tasks[&t.id].node_id, node_id),
            ItemKind::Attachment(a) => assert_eq!(state.attachments[&a.id].node_id, node_id),
            ItemKind::Swarm(_) | ItemKind::Peer(_) | ItemKind::Published(_) | ItemKind::IngressAddress(_) => {
            }
        }
    }
    for task in own_tasks {
        assert!(items.contains_key(&format!("task/{}", task.id)));
        for network in task
            .networks
            .iter()
            .filter(|n| state.networks.contains_key(&n.network_id))
        {
            assert!(items.contains_key(&format!("network/{}", network.network_id)));
        }
    }
}

/// What a service has once its swarm rests. `fit`: some node takes tasks.
fn assert_served(state: &ClusterState, service: &Service, fit: bool) {
    let iteration = service.job.map(|job| job.iteration);
    let tasks: Vec<&Task> = state
        .tasks
        .values()
        .map(|t| &**t)
        .filter(|t| t.service_id == service.id && is_wanted(t) && t.job_iteration == iteration)
        .collect();
    let running = |node: &str| {
        let on = |t: &&&Task| node.is_empty() || t.node_id == node;
        let runs = |t: &&&Task| t.status.state == TaskState::Running as i32;
        tasks.iter().filter(on).filter(runs).count() as u64
    };
    let completed = tasks.iter().filter(|t| is_completed(t)).count() as u64;
    let takes = |n: &Node| n.state() == NodeState::Ready && n.spec.availability() == Availability::Active;
    let plain = service.spec.task.networks.is_empty() && service.ports.is_empty();
    let restart = service.spec.task.restart.as_ref();
    let any = restart.is_some_and(|r| r.condition.as_deref() == Some("any") && r.max_attempts == Some(0));
    let status = service.update_status.as_ref();
    let paused = status.is_some_and(|s| s.state.ends_with("paused"));
    match &service.spec.mode {
        Some(ServiceMode::ReplicatedJob(job)) => {
            if fit && plain && any {
                let open = job.total_completions - completed;
                assert_eq!(running(""), open.min(job.max_concurrent));
            }
        }
        Some(ServiceMode::Global(_) | ServiceMode::GlobalJob(_)) => {
            assert!(tasks.iter().all(|t| state.nodes.contains_key(&t.node_id)));
            for node in state.nodes.values().filter(|n| takes(n) && plain && any) {
                let done = tasks.iter().any(|t| t.node_id == node.id && is_completed(t));
                assert_eq!(running(&node.id), u64::from(!done), "on {}", node.id);
            }
        }
        Some(ServiceMode::Replicated(_)) | None => {
            let replicas = replicas_of(&service.spec);
            let beside = u64::from(!any || paused || !fit) * replicas;
            assert!(tasks.len() as u64 <= replicas + beside);
            if fit && plain && any {
                assert_eq!(running(""), replicas);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold(events in events()) {
        let mut world = World::new();
        for event in &events {
            let before = world.state.clone();
            befall(&mut world, event);
            assert_allocation(&world.state);
            assert_slots(&world.state);
            for (before, after) in world.history(&before) {
                assert_ranks(&before, &after);
            }
            addresses_freed(&before, &world.state);
            let waiting = withdrawn(&world.state);
            prop_assert!(waiting.iter().all(|(_, _, at)| *at <= world.state.index));
        }
        for node_id in world.state.nodes.keys() {
            assert_need_to_know(&world.state, node_id);
        }
    }

    #[test]
    fn observed_state_moves_forward_and_desired_state_rises(events in events()) {
        let mut world = World::new();
        for event in &events {
            let before = world.state.clone();
            befall(&mut world, event);
            for (id, task) in &world.state.tasks {
                if let Some(known) = before.tasks.get(id) {
                    prop_assert!(known.status.state <= task.status.state);
                    prop_assert!(known.desired_state <= task.desired_state);
                }
            }
        }
    }

    #[test]
    fn replay_and_snapshots_agree(events in events(), cut in any::<prop::sample::Index>()) {
        let mut world = World::new();
        events.iter().for_each(|event| befall(&mut world, event));
        let cut = cut.index(world.log.len());
        let mut whole = ClusterState::default();
        let mut restored = ClusterState::default();
        for (n, (index, command)) in world.log.iter().enumerate() {
            whole.apply(*index, command);
            restored.apply(*index, command);
            if n == cut {
                restored = decode(&encode(&restored)).unwrap();
            }
        }
        prop_assert_eq!(&whole, &world.state);
        prop_assert_eq!(encode(&restored), encode(&whole));
        prop_assert_eq!(&restored, &whole);
    }

    /// Left alone with obedient nodes, every swarm comes to rest, and then each service has what it asks for.
    #[test]
    fn swarms_come_to_rest(events in events()) {
        let mut world = World::new();
        events.iter().for_each(|event| befall(&mut world, event));
        for _ in 0..MAX_ROUNDS {
            match world.settle() {
                Some(wake_at) if wake_at < world.now + LOST_REST / 2 => world.now = wake_at,
                _ => break,
            }
        }
        prop_assert!(world.next_plan().changes().is_empty());
        let fit = world.state.nodes.values().any(|n| n.state() == NodeState::Ready
            && n.spec.availability() == Availability::Active);
        for service in world.state.services.values() {
            assert_served(&world.state, service, fit);
        }
    }

    #[test]
    fn increments_fold_to_the_whole(events in events()) {
        let mut world = World::new();
        let mut ledger: BTreeMap<&str, Items> = NODES.iter().map(|n| (*n, Items::new())).collect();
        for event in &events {
            befall(&mut world, event);
            for (node_id, items) in &mut ledger {
                let next = assign(&world.state, node_id, &BTreeSet::new());
                let changes = diff(items, &next);
                fold(items, &changes);
                prop_assert_eq!(&*items, &next);
            }
        }
    }

    #[test]
    fn spread_is_even(nodes in 1usize..9, replicas in 0u64..40, second in 0u64..20) {
        let mut world = World::new();
        for n in 0..nodes {
            world.apply(Change::CreateNode(CreateNode { node: node(&format!("n{n}")) }));
        }
        for (name, replicas) in [("web", replicas), ("api", second)] {
            let spec = service_spec(name, replicas);
            world.apply(Change::CreateService(CreateService { id: name.into(), spec }));
        }
        world.settle();
        for name in ["web", "api"] {
            let count = |n: usize| world.state.tasks.values()
                .filter(|t| t.service_id == name && t.node_id == format!("n{n}")).count();
            let counts: Vec<usize> = (0..nodes).map(count).collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", counts);
        }
    }

    /// Under an update with stop-first, never more slots than may be replaced at once do not run; with start-first, all
    /// slots run at any time, and there are never more tasks than as many again.
    #[test]
    fn updates_take_a_few_slots_at_a_time(nodes in 1usize..5, replicas in 1u64..9, config in update_config()) {
        let mut world = World::new();
        for n in 0..nodes {
            world.apply(Change::CreateNode(CreateNode { node: node(&format!("n{n}")) }));
        }
        let mut spec = service_spec("web", replicas);
        spec.update = Some(config);
        world.apply(Change::CreateService(CreateService { id: "web".into(), spec: spec.clone() }));
        world.settle();
        spec.task.force_update = 1;
        let version = world.state.services["web"].meta.version;
        world.apply(Change::UpdateService(UpdateService { id: "web".into(), version, spec, rollback: false }));
        let at_once = if config.parallelism == 0 { replicas } else { config.parallelism };
        for _ in 0..MAX_ROUNDS * 4 {
            let plan = world.next_plan();
            let (planned, wake_at) = (!plan.steps.is_empty(), plan.wake_at);
            world.apply(Change::PlanTasks(PlanTasks { steps: plan.steps }));
            let running = world.state.tasks.values()
                .filter(|t| is_wanted(t) && t.status.state == TaskState::Running as i32).count() as u64;
            let wanted = world.state.tasks.values().filter(|t| is_wanted(t)).count() as u64;
            if config.order() == UpdateOrder::StartFirst {
                prop_assert!(running >= replicas && wanted <= replicas + at_once);
            } else {
                prop_assert!(running + at_once >= replicas && wanted <= replicas);
            }
            if !world.obey() && !planned {
                match wake_at {
                    Some(at) => world.now = at,
                    None => break,
                }
            }
        }
        let service = &world.state.services["web"];
        prop_assert_eq!(&service.update_status.as_ref().unwrap().state, "completed");
        let wanted: Vec<_> = world.state.tasks.values().filter(|t| is_wanted(t)).collect();
        prop_assert_eq!(wanted.len() as u64, replicas);
        prop_assert!(wanted.iter().all(|t| t.spec.force_update == 1));
    }
}
