//! This node as its Docker API sees it: membership, init, join, leave, and plain containers on overlay networks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skep_control::ca::UnlockKey;
use skep_control::daemon::{
    ApiError, Grant, InitRequest, JoinRequest, Member as Who, Membership, NodeDaemon,
};
use skep_control::model::{ItemKind, Items};
use tokio::sync::{Mutex, watch};

use crate::core::desired::Desired;
use crate::member::{Common, Member, View};
use crate::network::RESOLVER;

mod alone;
mod attach;
mod errors;
mod join;
mod leave;
mod page;
mod restart;

pub use restart::resume;

/// How long `swarm init` and `swarm join` wait for the first assignments, so that the node is Ready when they return.
const FIRST_ASSIGNMENTS: Duration = Duration::from_secs(10);

/// What this node is now.
#[derive(Clone, Default)]
enum State {
    #[default]
    Inactive,
    Pending(String),
    /// Node id: what this manager stored needs the unlock key.
    Locked(String),
    Member(View),
}

/// Shared by the API, the signal handler and a join that goes on in the background.
pub struct Daemon {
    common: Common,
    /// Held through init, join, leave and resume: one at a time.
    member: Arc<Mutex<Option<Member>>>,
    state: watch::Sender<State>,
}

impl Daemon {
    pub fn new(common: Common) -> Arc<Daemon> {
        Arc::new(Daemon {
            common,
            member: Arc::default(),
            state: watch::Sender::new(State::Inactive),
        })
    }

    fn view(&self) -> Option<View> {
        match &*self.state.borrow() {
            State::Member(view) => Some(view.clone()),
            _ => None,
        }
    }

    fn take_up(&self, member: Member, slot: &mut Option<Member>) -> View {
        let view = member.view().clone();
        *slot = Some(member);
        self.state.send_replace(State::Member(view.clone()));
        view
    }

    /// Other nodes take this node's ingress addresses, or `deadline` passes.
    pub async fn hand_over(&self, deadline: Duration) {
        let network = self.view().and_then(|view| view.network.borrow().clone());
        if let Some(network) = network {
            network.hand_over_all(deadline).await;
        }
    }

    /// Ends the membership's tasks; containers, tables and forwarding stay.
    pub async fn shut_down(&self) {
        let member = self.member.lock().await.take();
        self.state.send_replace(State::Inactive);
        if let Some(member) = member {
            for error in member.stop(false).await {
                tracing::warn!(%error, "stop");
            }
        }
    }

    /// Waits until the node works by an applied set, from the ledger or from a manager; at most `limit`.
    pub async fn settled(&self, limit: Duration) {
        let Some(mut view) = self.view() else { return };
        let up = async {
            let network = view.network.wait_for(Option::is_some).await.ok()?.clone()?;
            let index = view.desired.borrow().index;
            network.applied().wait_for(|&at| at >= index).await.ok()?;
            Some(())
        };
        if tokio::time::timeout(limit, up).await.is_err() {
            tracing::info!("the tables are not complete yet");
        }
    }
}

/// Waits for the first assignments; the outcome is not an error: the session goes on trying.
async fn first_assignments(view: &View) {
    let mut desired = view.desired.clone();
    let complete = desired.wait_for(Desired::is_ready);
    if tokio::time::timeout(FIRST_ASSIGNMENTS, complete).await.is_err() {
        tracing::warn!("no assignments yet");
    }
}

fn who(view: &View) -> Who {
    Who {
        node_id: view.node_id.clone(),
        cluster_id: view.cluster_id.clone(),
        address: view.address.clone(),
        managers: managers(view),
    }
}

/// From the replicated state where this node has it, else what the assignments say.
fn managers(view: &View) -> Vec<(String, String)> {
    if let Some(manager) = view.manager() {
        let state = manager.state().borrow().clone();
        let nodes = state
            .nodes
            .values()
            .filter(|n| n.raft_id != 0 && !n.manager_address.is_empty());
        return nodes.map(|n| (n.id.clone(), n.manager_address.clone())).collect();
    }
    let items = view.desired.borrow().items.clone();
    let node_at = |address: &str| {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        items.values().find_map(|item| match &item.kind {
            Some(ItemKind::Peer(peer)) if peer.underlay == host => Some(peer.node_id.clone()),
            _ => None,
        })
    };
    let addresses = view.managers.borrow().clone();
    addresses
        .into_iter()
        .map(|a| (node_at(&a).unwrap_or_default(), a))
        .collect()
}

#[async_trait]
impl NodeDaemon for Daemon {
    fn membership(&self) -> Membership {
        match &*self.state.borrow() {
            State::Inactive => Membership::Inactive,
            State::Pending(error) => Membership::Pending { error: error.clone() },
            State::Locked(node_id) => Membership::Locked {
                node_id: node_id.clone(),
            },
            State::Member(view) => match view.manager() {
                Some(manager) => Membership::Manager(who(view), manager),
                None => Membership::Worker(who(view)),
            },
        }
    }

    async fn init(&self, request: InitRequest) -> Result<String, ApiError> {
        if request.force_new_cluster && self.view().is_some() {
            return self.go_on_alone(request).await;
        }
        self.make_swarm(request).await
    }

    async fn join(&self, request: JoinRequest) -> Result<(), ApiError> {
        self.join_swarm(request).await
    }

    async fn leave(&self, force: bool) -> Result<(), ApiError> {
        self.leave_swarm(force).await
    }

    async fn unlock(&self, key: UnlockKey) -> Result<(), ApiError> {
        restart::unlock(self, key).await
    }

    fn items(&self) -> Arc<Items> {
        self.view()
            .map(|view| view.desired.borrow().items.clone())
            .unwrap_or_default()
    }

    fn twins(&self) -> Arc<BTreeMap<String, String>> {
        let network = self.view().and_then(|view| view.network.borrow().clone());
        network
            .map(|network| network.twins().borrow().clone())
            .unwrap_or_default()
    }

    async fn attach(&self, network: &str, names: Vec<String>, wished: &str) -> Result<Grant, ApiError> {
        attach::attach(&self.member_view()?, network, names, wished).await
    }

    async fn attached(&self, attachment_id: &str, container_id: &str) -> Result<(), ApiError> {
        attach::attached(&self.member_view()?, attachment_id, container_id).await
    }

    async fn detach(&self, attachment_id: &str) -> Result<(), ApiError> {
        attach::detach(&self.member_view()?, attachment_id).await
    }

    fn api_socket(&self) -> String {
        self.common.socket.to_string_lossy().into_owned()
    }

    fn resolver(&self) -> String {
        RESOLVER.to_string()
    }

    async fn page(&self, path: &str) -> Option<serde_json::Value> {
        page::page(self, path).await
    }
}

impl Daemon {
    fn member_view(&self) -> Result<View, ApiError> {
        self.view().ok_or_else(errors::not_in_a_swarm)
    }
}
