//! The swarm without Raft and nodes: proposals are applied at once, planners run until nothing is left to do, and
//! every task that is assigned runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use crate::ca::UnlockKey;
use crate::core::failures::FailureMemory;
use crate::core::plan::plan;
use crate::core::state::ClusterState;
use crate::daemon::{ApiError, Grant, InitRequest, JoinRequest, Member, Membership, NodeDaemon};
use crate::manager::{ControlError, Leader, LogError, Manager, Propose};
use crate::model::id::{RaftId, object_id};
use crate::model::*;

/// 2026-11-24T08:00:00Z and a bit; each entry is a millisecond later.
const START: Timestamp = 1_795_507_200_000_500_000;
pub const NODE: &str = "node1aaaaaaaaaaaaaaaaaaaa";

pub struct SwarmStub {
    inner: Mutex<Inner>,
    sender: watch::Sender<Arc<ClusterState>>,
    leader: watch::Sender<Option<Leader>>,
    no_quorum: AtomicBool,
}

struct Inner {
    state: ClusterState,
    ids: u8,
}

impl Inner {
    fn apply(&mut self, change: Change) -> Applied {
        let index = self.state.index + 1;
        let command = Command {
            now: START + index as i64 * 1_000_000,
            change: Some(change),
        };
        self.state.apply(index, &command)
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            let now = START + self.state.index as i64 * 1_000_000;
            let ids = &mut self.ids;
            let mut new_id = || {
                *ids += 1;
                object_id([*ids; 16])
            };
            let plan = plan(&self.state, now, &mut new_id, &FailureMemory::default());
            for change in plan.changes() {
                self.apply(change);
            }
            let reports = self.reports();
            if reports.is_empty() && now == START + self.state.index as i64 * 1_000_000 {
                return;
            }
            if !reports.is_empty() {
                self.apply(Change::ReportTasks(ReportTasks {
                    node_id: NODE.to_string(),
                    reports,
                }));
            }
        }
    }

    /// What the node would say: each task is where it is meant to be.
    fn reports(&self) -> Vec<TaskReport> {
        let tasks = self.state.tasks.values().filter(|task| task.node_id == NODE);
        let behind = tasks.filter_map(|task| {
            let state = match task.desired_state() {
                TaskState::Ready | TaskState::Running | TaskState::Complete => task.desired_state(),
                _ => TaskState::Shutdown,
            };
            (task.status.state() < state).then(|| TaskReport {
                task_id: task.id.clone(),
                status: TaskStatus {
                    state: state.into(),
                    timestamp: START,
                    message: "started".to_string(),
                    container: Some(ContainerStatus {
                        container_id: "c".repeat(64),
                        pid: 42,
                        exit_code: None,
                    }),
                    ..TaskStatus::default()
                },
            })
        });
        behind.collect()
    }
}

impl SwarmStub {
    pub fn new() -> Arc<SwarmStub> {
        let mut inner = Inner {
            state: ClusterState::default(),
            ids: 0,
        };
        let applied = inner.apply(Change::InitCluster(first_command()));
        assert_eq!(applied.refused, None);
        let state = Arc::new(inner.state.clone());
        let leader = Leader {
            raft_id: 1,
            node_id: NODE.to_string(),
            address: "192.0.2.1:2377".to_string(),
        };
        Arc::new(SwarmStub {
            inner: Mutex::new(inner),
            sender: watch::Sender::new(state),
            leader: watch::Sender::new(Some(leader)),
            no_quorum: AtomicBool::new(false),
        })
    }

    pub fn commit(&self, change: Change) -> Applied {
        let mut inner = self.inner.lock().unwrap();
        let applied = inner.apply(change);
        inner.settle();
        self.sender.send_replace(Arc::new(inner.state.clone()));
        applied
    }

    /// From now on nobody leads.
    pub fn lose_quorum(&self) {
        self.no_quorum.store(true, Ordering::Relaxed);
    }

    pub fn state(&self) -> Arc<ClusterState> {
        self.sender.borrow().clone()
    }
}

fn first_command() -> InitCluster {
    let mut cluster = Cluster {
        id: "cluster1aaaaaaaaaaaaaaaaa".to_string(),
        subnet_size: 24,
        data_path_port: 4789,
        worker_token: "SWMTKN-1-digest-worker".to_string(),
        manager_token: "SWMTKN-1-digest-manager".to_string(),
        mesh_seed: 7,
        ..Cluster::default()
    };
    cluster.spec.annotations.name = "default".to_string();
    let mut node = Node {
        id: NODE.to_string(),
        manager_address: "192.0.2.1:2377".to_string(),
        address: "192.0.2.1".to_string(),
        data_path_address: "192.0.2.1".to_string(),
        description: Some(NodeDescription {
            hostname: "one".to_string(),
            platform: Some(Platform {
                architecture: "x86_64".to_string(),
                os: "linux".to_string(),
            }),
            nano_cpus: 2_000_000_000,
            memory: 4 << 30,
            engine_version: "20.10.24".to_string(),
            engine_labels: BTreeMap::from([("disk".to_string(), "ssd".to_string())]),
            plugins: vec!["Network/bridge".to_string()],
            ..NodeDescription::default()
        }),
        ..Node::default()
    };
    node.spec.role = Role::Manager.into();
    node.state = NodeState::Ready.into();
    InitCluster {
        cluster,
        node,
        ingress_network_id: "ingress1aaaaaaaaaaaaaaaaa".to_string(),
        ingress_subnet: String::new(),
    }
}

#[async_trait]
impl Propose for SwarmStub {
    async fn propose(&self, change: Change) -> Result<Applied, ControlError> {
        if self.no_quorum.load(Ordering::Relaxed) {
            return Err(ControlError::NoLeader);
        }
        let applied = self.commit(change);
        match applied.refused {
            Some(refused) => Err(ControlError::Refused(refused)),
            None => Ok(applied),
        }
    }

    async fn barrier(&self) -> Result<(), ControlError> {
        if self.no_quorum.load(Ordering::Relaxed) {
            return Err(ControlError::NoLeader);
        }
        Ok(())
    }

    /// No node is in a session.
    async fn node_log(
        &self,
        node_id: &str,
        _container_id: &str,
        _query: &str,
    ) -> Result<mpsc::Receiver<Result<Vec<u8>, LogError>>, LogError> {
        Err(LogError::NodeAway(node_id.to_string()))
    }

    fn reachable(&self, raft_id: RaftId) -> bool {
        raft_id == 1
    }
}

pub struct DaemonStub {
    swarm: Arc<SwarmStub>,
    membership: Mutex<Membership>,
    /// Calls of the attachment seam, in order.
    pub calls: Mutex<Vec<String>>,
}

impl DaemonStub {
    pub fn new(swarm: &Arc<SwarmStub>) -> Arc<DaemonStub> {
        Arc::new(DaemonStub {
            swarm: Arc::clone(swarm),
            membership: Mutex::new(Membership::Inactive),
            calls: Mutex::new(Vec::new()),
        })
    }

    pub fn member() -> Member {
        Member {
            node_id: NODE.to_string(),
            cluster_id: "cluster1aaaaaaaaaaaaaaaaa".to_string(),
            address: "192.0.2.1".to_string(),
            managers: vec![(NODE.to_string(), "192.0.2.1:2377".to_string())],
        }
    }

    pub fn become_manager(&self, swarm: &Arc<SwarmStub>) {
        let proposer: Arc<dyn Propose> = swarm.clone();
        let manager = Manager::new(proposer, swarm.sender.subscribe(), swarm.leader.subscribe());
        self.set(Membership::Manager(Self::member(), Arc::new(manager)));
    }

    pub fn set(&self, membership: Membership) {
        *self.membership.lock().unwrap() = membership;
    }

    fn called(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }
}

/// The Engine's id of a network's twin in these tests.
pub fn engine_id(network_id: &str) -> String {
    format!("{:0>64}", format!("e{network_id}"))
}

#[async_trait]
impl NodeDaemon for DaemonStub {
    fn membership(&self) -> Membership {
        self.membership.lock().unwrap().clone()
    }

    async fn init(&self, request: InitRequest) -> Result<String, ApiError> {
        self.called(format!("init {}", request.advertise_addr));
        self.become_manager(&self.swarm);
        Ok(NODE.to_string())
    }

    async fn join(&self, request: JoinRequest) -> Result<(), ApiError> {
        self.called(format!(
            "join {} {}",
            request.remote_addrs.join(","),
            request.join_token
        ));
        self.set(Membership::Worker(Self::member()));
        Ok(())
    }

    async fn leave(&self, force: bool) -> Result<(), ApiError> {
        self.called(format!("leave {force}"));
        self.set(Membership::Inactive);
        Ok(())
    }

    async fn unlock(&self, key: UnlockKey) -> Result<(), ApiError> {
        self.called(format!("unlock {}", key.text().len()));
        self.become_manager(&self.swarm);
        Ok(())
    }

    fn items(&self) -> Arc<Items> {
        let state = self.swarm.state();
        let attachments = state.attachments.values().map(|attachment| {
            let kind = ItemKind::Attachment(AttachmentItem {
                id: attachment.id.clone(),
                network: attachment.network.clone(),
                container_id: attachment.container_id.clone(),
            });
            (item_key(&kind), Item { kind: Some(kind) })
        });
        Arc::new(attachments.collect())
    }

    fn twins(&self) -> Arc<BTreeMap<String, String>> {
        let state = self.swarm.state();
        let user = state.networks.values().filter(|network| !network.spec.ingress);
        Arc::new(
            user.map(|network| (engine_id(&network.id), network.id.clone()))
                .collect(),
        )
    }

    async fn attach(&self, network: &str, names: Vec<String>, wished: &str) -> Result<Grant, ApiError> {
        let id = format!("attachment{}", self.calls.lock().unwrap().len());
        self.called(format!("attach {} [{}] {wished}", network.len(), names.join(",")));
        let applied = self.swarm.commit(Change::CreateAttachment(CreateAttachment {
            id: id.clone(),
            node_id: NODE.to_string(),
            network: network.to_string(),
            names,
            address: wished.to_string(),
        }));
        if let Some(refused) = applied.refused {
            return Err(ControlError::Refused(refused).into());
        }
        let state = self.swarm.state();
        let network = &state.networks[network];
        Ok(Grant {
            attachment_id: id,
            address: applied.address,
            network: NetworkItem {
                network_id: network.id.clone(),
                name: network.spec.annotations.name.clone(),
                ..NetworkItem::default()
            },
            engine_network_id: engine_id(&network.id),
        })
    }

    async fn attached(&self, attachment_id: &str, container_id: &str) -> Result<(), ApiError> {
        self.called(format!("attached {attachment_id} {container_id}"));
        self.swarm.commit(Change::UpdateAttachment(UpdateAttachment {
            id: attachment_id.to_string(),
            node_id: NODE.to_string(),
            container_id: Some(container_id.to_string()),
            remove: false,
        }));
        Ok(())
    }

    async fn detach(&self, attachment_id: &str) -> Result<(), ApiError> {
        self.called(format!("detach {attachment_id}"));
        self.swarm.commit(Change::UpdateAttachment(UpdateAttachment {
            id: attachment_id.to_string(),
            node_id: NODE.to_string(),
            container_id: None,
            remove: true,
        }));
        Ok(())
    }

    fn api_socket(&self) -> String {
        "/run/skep/docker.sock".to_string()
    }

    fn resolver(&self) -> String {
        "169.254.53.53".to_string()
    }
}
