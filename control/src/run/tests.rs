//! Whole managers in one process, on ports of 127.0.0.1: init, join, forward, fail over, cut off, restart; sessions;
//! who may call what.

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::rpc::client::{Hello, NodeMessage, SessionConfig, SessionEvent, SessionHandle, session};

/// A machine as slow as it gets with other tests beside this one.
const PATIENCE: Duration = Duration::from_secs(30);

struct Node {
    directory: TempDir,
    listen: SocketAddr,
    running: RunningManager,
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn join_params() -> JoinParams {
    JoinParams {
        address: "127.0.0.1".to_string(),
        data_path_address: String::new(),
        description: NodeDescription::default(),
        availability: Availability::Active,
    }
}

async fn first() -> Node {
    let (directory, listen) = (tempfile::tempdir().unwrap(), free_address());
    let params = InitParams {
        spec: ClusterSpec::default(),
        default_address_pools: Vec::new(),
        subnet_size: 0,
        data_path_port: 0,
        address: "127.0.0.1".to_string(),
        data_path_address: String::new(),
        description: NodeDescription::default(),
        availability: Availability::Active,
    };
    let (running, identity) = init(directory.path(), listen, &listen.to_string(), params)
        .await
        .unwrap();
    assert_eq!(identity.role, Role::Manager);
    Node {
        directory,
        listen,
        running,
    }
}

impl Node {
    fn cluster(&self) -> Arc<Cluster> {
        self.running.manager.state().borrow().cluster.clone().unwrap()
    }

    async fn join_as(&self, token: &str) -> (TempDir, SocketAddr, Result<Joined, JoinError>) {
        let (directory, listen) = (tempfile::tempdir().unwrap(), free_address());
        let remotes = [self.listen.to_string()];
        let joined = join(
            directory.path(),
            listen,
            &listen.to_string(),
            &remotes,
            token,
            join_params(),
        )
        .await;
        (directory, listen, joined)
    }

    async fn join_manager(&self) -> Node {
        let (directory, listen, joined) = self.join_as(&self.cluster().manager_token).await;
        let running = joined.unwrap().running.unwrap();
        Node {
            directory,
            listen,
            running,
        }
    }

    async fn leader(&self) -> crate::manager::Leader {
        let mut leader = self.running.manager.leader();
        let found = timeout(PATIENCE, leader.wait_for(Option::is_some))
            .await
            .unwrap()
            .unwrap()
            .clone();
        found.unwrap()
    }

    fn leads(&self) -> bool {
        self.running.group().leads()
    }

    fn term(&self) -> u64 {
        self.running.group().raft().metrics().borrow().current_term
    }

    async fn write(&self, name: &str) -> Result<Applied, ControlError> {
        self.running.manager.propose(network(name)).await
    }

    /// Writes while the leader goes: a write that was under way with it has an unknown outcome and is made again, as a user
    /// would. It may then be there already.
    async fn write_again(&self, name: &str) {
        loop {
            match self.write(name).await {
                Ok(_) => return,
                Err(ControlError::Timeout(_)) => {}
                Err(ControlError::Refused(refused)) => {
                    assert_eq!(refused.code(), Code::AlreadyExists);
                    assert!(self.has(name));
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.running
            .manager
            .state()
            .borrow()
            .network_named(name)
            .is_some()
    }
}

fn network(name: &str) -> Change {
    Change::CreateNetwork(CreateNetwork {
        id: object_id(rand::random()),
        spec: NetworkSpec {
            annotations: Annotations {
                name: name.to_string(),
                labels: BTreeMap::new(),
            },
            attachable: true,
            ..Default::default()
        },
    })
}

async fn three() -> [Node; 3] {
    let one = first().await;
    let two = one.join_manager().await;
    let three = one.join_manager().await;
    [one, two, three]
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn stop_all(nodes: impl IntoIterator<Item = Node>) {
    for node in nodes {
        node.running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_manager_works_and_comes_back_from_disk() {
    let node = first().await;
    let cluster = node.cluster();
    assert_eq!(
        (
            cluster.subnet_size,
            cluster.data_path_port,
            cluster.probe_key.len()
        ),
        (24, 4789, 32)
    );
    assert!(node.running.manager.state().borrow().ingress().is_some());
    node.write("app").await.unwrap();
    node.running.manager.barrier().await.unwrap();
    let again = init(node.directory.path(), node.listen, "127.0.0.1:1", init_again()).await;
    assert!(matches!(again, Err(RunError::AlreadyMember)));
    node.running.stop().await;
    let (facts, identity) = stored(node.directory.path(), None).unwrap().unwrap();
    let running = start(facts.manager_config(node.directory.path(), identity, None))
        .await
        .unwrap();
    running.manager.barrier().await.unwrap();
    let state = running.manager.state().borrow().clone();
    assert!(state.network_named("app").is_some());
    assert_eq!(state.cluster.as_ref().unwrap().id, cluster.id);
    running.stop().await;
}

fn init_again() -> InitParams {
    InitParams {
        spec: ClusterSpec::default(),
        default_address_pools: Vec::new(),
        subnet_size: 0,
        data_path_port: 0,
        address: String::new(),
        data_path_address: String::new(),
        description: NodeDescription::default(),
        availability: Availability::Active,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_forward_and_a_killed_leader_is_replaced() {
    let [one, two, three] = three().await;
    two.write("by-follower").await.unwrap();
    assert!(
        two.has("by-follower"),
        "propose returns when the local state holds it"
    );
    three.running.manager.barrier().await.unwrap();
    assert!(three.has("by-follower"));
    for round in 0..20 {
        let name = format!("round-{round}");
        two.write(&name).await.unwrap();
        for reader in [&one, &three] {
            reader.running.manager.barrier().await.unwrap();
            assert!(reader.has(&name), "a read that began after the write sees it");
        }
    }
    let refused = three.write("by-follower").await.unwrap_err();
    assert!(matches!(refused, ControlError::Refused(_)), "{refused:?}");
    for raft_id in 1..=3 {
        until("all are reachable", || {
            one.running.manager.reachable(raft_id) && two.running.manager.reachable(raft_id)
        })
        .await;
    }
    assert_eq!(two.leader().await.raft_id, 1);
    one.running.stop().await;
    let killed = Instant::now();
    two.write_again("after").await;
    println!("first write {:?} after the leader ended", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(10));
    until("the other follower has it", || three.has("after")).await;
    until("the killed one is unreachable", || {
        !two.running.manager.reachable(1) && !three.running.manager.reachable(1)
    })
    .await;
    stop_all([two, three]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_was_cut_off_does_not_topple_the_leader() {
    let [one, two, three] = three().await;
    let term = one.term();
    three.running.cut_off(true);
    until("it hears no leader", || {
        three.running.manager.leader().borrow().is_none()
    })
    .await;
    // Several election timeouts long.
    sleep(Duration::from_secs(8)).await;
    assert_eq!(three.term(), term, "it did not stand");
    one.write("meanwhile").await.unwrap();
    assert!(matches!(three.write("alone").await, Err(ControlError::NoLeader)));
    three.running.cut_off(false);
    until("it catches up", || three.has("meanwhile")).await;
    sleep(Duration::from_secs(3)).await;
    assert!(one.leads());
    assert_eq!((one.term(), two.term(), three.term()), (term, term, term));
    stop_all([one, two, three]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_cut_off_returns_as_follower() {
    let [one, two, three] = three().await;
    one.running.cut_off(true);
    until("another leads", || two.leads() || three.leads()).await;
    until("it knows that it does not", || !one.leads()).await;
    two.write("after").await.unwrap();
    // Its lease is over: it does not answer reads from its old state.
    assert!(one.running.manager.barrier().await.is_err());
    assert!(!one.has("after"));
    let term = two.term();
    one.running.cut_off(false);
    until("it catches up", || one.has("after")).await;
    sleep(Duration::from_secs(2)).await;
    assert!(!one.leads());
    assert_eq!((two.term(), three.term()), (term, term));
    stop_all([one, two, three]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_restart_from_disk() {
    let nodes = three().await;
    nodes[1].write("app").await.unwrap();
    let kept: Vec<(TempDir, u64)> = {
        let mut kept = Vec::new();
        for node in nodes {
            let raft_id = node.running.raft_id;
            node.running.stop().await;
            kept.push((node.directory, raft_id));
        }
        kept
    };
    let mut again = Vec::new();
    for (directory, raft_id) in &kept {
        let (facts, identity) = stored(directory.path(), None).unwrap().unwrap();
        assert_eq!(facts.raft_id, *raft_id);
        again.push(
            start(facts.manager_config(directory.path(), identity, None))
                .await
                .unwrap(),
        );
    }
    for running in &again {
        running.manager.barrier().await.unwrap();
        assert!(running.manager.state().borrow().network_named("app").is_some());
    }
    again[2].manager.propose(network("later")).await.unwrap();
    for running in again {
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_fingerprints_are_checked() {
    let node = first().await;
    let cluster = node.cluster();
    let other_secret = token::make(&cluster.root_ca_cert, [7; 16]);
    let (_, _, joined) = node.join_as(&other_secret).await;
    assert!(matches!(joined, Err(JoinError::InvalidToken)));
    let other_root = token::make("another root", [7; 16]);
    let (_, _, joined) = node.join_as(&other_root).await;
    let expected = token::hex(&token::root_digest("another root"));
    assert_eq!(
        joined.err().unwrap().to_string(),
        format!("remote CA does not match fingerprint. Expected: {expected}")
    );
    let (_, _, joined) = node.join_as("SWMTKN-1-nonsense").await;
    assert!(matches!(joined, Err(JoinError::InvalidToken)));
    assert_eq!(
        node.running.manager.state().borrow().nodes.len(),
        1,
        "nothing changed"
    );
    let (directory, _, joined) = node.join_as(&cluster.worker_token).await;
    let joined = joined.unwrap();
    assert!(joined.running.is_none());
    assert_eq!(
        (joined.role, joined.cluster_id.as_str()),
        (Role::Worker, cluster.id.as_str())
    );
    let (facts, identity) = stored(directory.path(), None).unwrap().unwrap();
    assert_eq!((facts.raft_id, identity), (0, joined.identity));
    stop_all([node]).await;
}

fn open_session(identity: &Identity, managers: Vec<String>) -> SessionHandle {
    session(SessionConfig {
        identity: watch::channel(identity.clone()).1,
        managers: watch::channel(managers).1,
        hello: Hello {
            address: "127.0.0.9".to_string(),
            ..Default::default()
        },
    })
}

async fn next(handle: &mut SessionHandle) -> SessionEvent {
    timeout(PATIENCE, handle.events.recv()).await.unwrap().unwrap()
}

async fn next_assignments(handle: &mut SessionHandle) -> Assignments {
    loop {
        if let SessionEvent::Assignments(assignments) = next(handle).await {
            return assignments;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_gets_complete_then_incremental_and_follows_the_leader() {
    let [one, two, three] = three().await;
    let (_directory, _, joined) = two.join_as(&one.cluster().worker_token).await;
    let joined = joined.unwrap();
    assert!(joined.managers.len() == 3);
    // Only followers: it has to be led on.
    let followers = vec![two.listen.to_string(), three.listen.to_string()];
    let mut handle = open_session(&joined.identity, followers);
    assert!(matches!(next(&mut handle).await, SessionEvent::Connected { .. }));
    let complete = next_assignments(&mut handle).await;
    assert_eq!(
        (complete.kind(), complete.applies_to),
        (AssignmentsKind::Complete, 0)
    );
    let mut items = Items::new();
    fold(&mut items, &complete.changes);
    assert!(items.contains_key("swarm"));
    assert_eq!(items.keys().filter(|key| key.starts_with("peer/")).count(), 4);
    handle
        .sender
        .send(NodeMessage::Applied(complete.results_in))
        .await
        .unwrap();
    until("the node is ready", || {
        let state = one.running.manager.state();
        let state = state.borrow();
        let node = &state.nodes[&joined.node_id];
        node.state() == NodeState::Ready && node.address == "127.0.0.9"
    })
    .await;
    let mut at = complete.results_in;
    let client = crate::rpc::client::NodeClient::new(
        watch::channel(joined.identity.clone()).1,
        watch::channel(joined.managers.clone()).1,
    );
    one.write("app").await.unwrap();
    let request = CreateAttachment {
        id: object_id(rand::random()),
        node_id: "somebody-else".to_string(),
        network: "app".to_string(),
        ..Default::default()
    };
    let applied = client.create_attachment(request).await.unwrap();
    assert!(applied.address.starts_with("10."), "{applied:?}");
    while !items.keys().any(|key| key.starts_with("attachment/")) {
        let assignments = next_assignments(&mut handle).await;
        assert_eq!(
            (assignments.kind(), assignments.applies_to),
            (AssignmentsKind::Incremental, at)
        );
        at = assignments.results_in;
        fold(&mut items, &assignments.changes);
    }
    one.running.stop().await;
    while !matches!(next(&mut handle).await, SessionEvent::Disconnected { .. }) {}
    let complete = next_assignments(&mut handle).await;
    assert_eq!(complete.kind(), AssignmentsKind::Complete);
    let renewed = client.renew().await.unwrap();
    assert_eq!(renewed.node_id, joined.node_id);
    assert_ne!(renewed.cert_pem, joined.identity.cert_pem);
    stop_all([two, three]).await;
}

mod access;
mod leading;
mod members;
mod roles;
