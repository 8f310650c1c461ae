//! The leader's loops at work: a service's tasks reach nodes, their reports come back, a task is stopped only after
//! every node took it out of its tables; a member that is far behind gets a snapshot.

use std::collections::BTreeMap;

use super::*;

/// A node that runs whatever it is told, in no time.
struct FakeNode {
    handle: SessionHandle,
    items: Items,
    at: u64,
    acknowledges: bool,
}

impl FakeNode {
    fn new(identity: &Identity, managers: Vec<String>) -> FakeNode {
        FakeNode {
            handle: open_session(identity, managers),
            items: Items::new(),
            at: 0,
            acknowledges: true,
        }
    }

    fn tasks(&self) -> impl Iterator<Item = &TaskItem> {
        self.items.values().filter_map(|item| match &item.kind {
            Some(ItemKind::Task(task)) => Some(task),
            _ => None,
        })
    }

    /// Takes one message, acknowledges it and reports every task as running.
    async fn step(&mut self) {
        let assignments = next_assignments(&mut self.handle).await;
        match assignments.kind() {
            AssignmentsKind::Complete => self.items.clear(),
            AssignmentsKind::Incremental => assert_eq!(assignments.applies_to, self.at),
        }
        self.at = assignments.results_in;
        fold(&mut self.items, &assignments.changes);
        if self.acknowledges {
            self.acknowledge().await;
        }
        let running = |task: &TaskItem| TaskReport {
            task_id: task.id.clone(),
            status: TaskStatus {
                state: TaskState::Running as i32,
                ..Default::default()
            },
        };
        let fresh = |task: &&TaskItem| {
            task.desired_state == TaskState::Running as i32 && task.observed_state < TaskState::Running as i32
        };
        let reports: Vec<TaskReport> = self.tasks().filter(fresh).map(running).collect();
        if !reports.is_empty() {
            self.handle
                .sender
                .send(NodeMessage::Report(reports))
                .await
                .unwrap();
        }
    }

    async fn acknowledge(&mut self) {
        self.handle
            .sender
            .send(NodeMessage::Applied(self.at))
            .await
            .unwrap();
    }

    async fn step_until(&mut self, what: &str, condition: impl Fn(&FakeNode) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < PATIENCE, "{what}");
            self.step().await;
        }
    }
}

fn service_spec(replicas: u64) -> ServiceSpec {
    ServiceSpec {
        annotations: Annotations {
            name: "web".to_string(),
            labels: BTreeMap::new(),
        },
        task: TaskSpec {
            container: ContainerSpec {
                image: "busybox:latest".to_string(),
                ..Default::default()
            },
            ..Default::default()
        },
        mode: Some(ServiceMode::Replicated(ReplicatedMode {
            replicas: Some(replicas),
        })),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_released_when_every_connected_node_has_applied_its_withdrawal() {
    let one = first().await;
    let manager = &one.running.manager;
    let (_first, _, joined) = one.join_as(&one.cluster().worker_token).await;
    let joined = joined.unwrap();
    let mut node = FakeNode::new(&joined.identity, joined.managers.clone());
    node.step().await;
    let (_second, _, watcher) = one.join_as(&one.cluster().worker_token).await;
    let watcher = watcher.unwrap();

    let create = CreateService {
        id: object_id(rand::random()),
        spec: service_spec(3),
    };
    let service_id = create.id.clone();
    let created = Instant::now();
    manager.propose(Change::CreateService(create)).await.unwrap();
    let all_running = |state: &crate::core::state::ClusterState| {
        let running = |task: &&Arc<Task>| task.status.state == TaskState::Running as i32;
        state.tasks.values().filter(running).count() == 3
    };
    node.step_until("three tasks", |node| node.tasks().count() == 3)
        .await;
    let mut state = manager.state();
    timeout(PATIENCE, state.wait_for(|state| all_running(state)))
        .await
        .unwrap()
        .unwrap();
    println!("three tasks running {:?} after their creation", created.elapsed());

    // The second node takes its sets and says nothing.
    let mut silent = FakeNode::new(&watcher.identity, watcher.managers.clone());
    silent.acknowledges = false;
    silent.step().await;
    let version = state.borrow().services[&service_id].meta.version;
    let update = UpdateService {
        id: service_id,
        version,
        spec: service_spec(2),
        rollback: false,
    };
    manager.propose(Change::UpdateService(update)).await.unwrap();
    let stopping = |node: &FakeNode| {
        node.tasks()
            .any(|task| task.desired_state > TaskState::Running as i32)
    };
    node.step_until("a task to stop", stopping).await;
    let released = |node: &FakeNode| node.tasks().any(|task| task.released);
    let early = timeout(Duration::from_secs(1), node.step_until("the release", released)).await;
    assert!(early.is_err(), "one node still has the task in its tables");
    silent.acknowledge().await;
    loop {
        tokio::select! {
            () = node.step_until("the release", released) => break,
            () = silent.step() => silent.acknowledge().await,
        }
    }
    stop_all([one]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_joins_late_gets_a_snapshot() {
    let one = first().await;
    for number in 0..20 {
        one.write(&format!("n{number}")).await.unwrap();
    }
    let spec = ClusterSpec {
        snapshot_interval: Some(10),
        ..Default::default()
    };
    let update = UpdateCluster {
        spec: Some(spec),
        ..Default::default()
    };
    one.running
        .manager
        .propose(Change::UpdateCluster(update))
        .await
        .unwrap();
    let raft = one.running.group().raft();
    until("the snapshot is built", || {
        raft.metrics().borrow().snapshot.is_some()
    })
    .await;
    let upto = raft.metrics().borrow().snapshot.unwrap().index;
    raft.trigger().purge_log(upto).await.unwrap();
    until("the log is purged", || raft.metrics().borrow().purged.is_some()).await;
    let two = one.join_manager().await;
    assert!(two.has("n19"));
    let (facts, identity) = {
        let found = stored(two.directory.path(), None).unwrap().unwrap();
        two.running.stop().await;
        found
    };
    let running = start(facts.manager_config(two.directory.path(), identity, None))
        .await
        .unwrap();
    assert!(
        running.manager.state().borrow().network_named("n0").is_some(),
        "its snapshot is on its own disk"
    );
    running.stop().await;
    stop_all([one]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_silent_goes_down_and_comes_back() {
    let one = first().await;
    let manager = &one.running.manager;
    let spec = ClusterSpec {
        heartbeat_period: Some(300_000_000),
        ..Default::default()
    };
    let update = UpdateCluster {
        spec: Some(spec),
        ..Default::default()
    };
    manager.propose(Change::UpdateCluster(update)).await.unwrap();
    let (_directory, _, joined) = one.join_as(&one.cluster().worker_token).await;
    let joined = joined.unwrap();
    let is = |wanted: NodeState| {
        let mut state = manager.state();
        let node_id = joined.node_id.clone();
        async move {
            let reached = state.wait_for(|state| state.nodes[&node_id].state() == wanted);
            timeout(PATIENCE, reached).await.unwrap().unwrap();
        }
    };
    let mut node = FakeNode::new(&joined.identity, joined.managers.clone());
    node.step().await;
    is(NodeState::Ready).await;
    sleep(Duration::from_secs(3)).await;
    is(NodeState::Ready).await;
    drop(node);
    is(NodeState::Down).await;
    let node = FakeNode::new(&joined.identity, joined.managers.clone());
    is(NodeState::Ready).await;
    drop(node);
    stop_all([one]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_added_through_a_follower_is_ranked_and_told_to_nodes() {
    let nodes = three().await;
    let follower = nodes.iter().find(|node| !node.leads()).unwrap();
    let manager = &follower.running.manager;
    let (_directory, _, joined) = nodes[0].join_as(&nodes[0].cluster().worker_token).await;
    let joined = joined.unwrap();
    let mut worker = FakeNode::new(&joined.identity, joined.managers.clone());
    worker.step().await;
    let create = CreateIngressAddress {
        id: object_id(rand::random()),
        spec: IngressAddressSpec {
            address: "192.0.2.100/24".to_string(),
            constraints: vec!["node.role==worker".to_string()],
            ..Default::default()
        },
    };
    let id = create.id.clone();
    let applied = manager
        .propose(Change::CreateIngressAddress(create))
        .await
        .unwrap();
    assert_eq!(applied.address, "192.0.2.100/24");
    let index = manager.state().borrow().nodes[&joined.node_id].index;
    let told = |node: &FakeNode| {
        let mut kinds = node.items.values().filter_map(|item| item.kind.as_ref());
        kinds.find_map(|kind| match kind {
            ItemKind::IngressAddress(item) => Some(item.clone()),
            _ => None,
        })
    };
    worker
        .step_until("an owner", |node| {
            told(node).is_some_and(|item| item.owners == [index])
        })
        .await;
    let version = manager.state().borrow().nodes[&joined.node_id].meta.version;
    let mut spec = manager.state().borrow().nodes[&joined.node_id].spec.clone();
    spec.availability = Availability::Drain as i32;
    let drain = UpdateNode {
        id: joined.node_id.clone(),
        version,
        spec,
    };
    let drained = Instant::now();
    manager.propose(Change::UpdateNode(drain)).await.unwrap();
    worker
        .step_until("no owner", |node| {
            told(node).is_some_and(|item| item.owners.is_empty())
        })
        .await;
    println!("ranks told {:?} after the drain", drained.elapsed());
    let remove = Change::RemoveIngressAddress(RemoveIngressAddress { id });
    manager.propose(remove).await.unwrap();
    worker.step_until("no address", |node| told(node).is_none()).await;
    stop_all(nodes).await;
}

/// Not a test of speed: says what a write costs here.
#[tokio::test(flavor = "multi_thread")]
async fn writes_through_leader_and_follower() {
    let nodes = three().await;
    for node in &nodes[..2] {
        let start = Instant::now();
        for number in 0..50 {
            node.write(&format!("w{}-{number}", node.running.raft_id))
                .await
                .unwrap();
        }
        println!(
            "a write through member {}: {:?}",
            node.running.raft_id,
            start.elapsed() / 50
        );
    }
    until("all have all", || nodes[2].has("w2-49")).await;
    stop_all(nodes).await;
}
