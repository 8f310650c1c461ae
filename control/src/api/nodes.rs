//! `/nodes`.

use hyper::StatusCode;
use hyper::body::Incoming;

use super::Api;
use super::answer::{
    Answer, bad_request, empty, filters, look_up, manager, ok, read_json, rpc_error, version_index,
};
use super::core::find;
use super::core::query::Query;
use super::core::shape::Labels;
use super::core::shape::node::{
    ManagerStatus, NodeShape, NodeSpec, node_shape, parse_availability, parse_role, role_text,
};
use crate::core::state::ClusterState;
use crate::manager::Manager;
use crate::model::{self, Annotations, Change, Code, Node, NodeState, RemoveNode, Role, UpdateNode};

/// A member of Raft, or one that left without being demoted. Not one that was promoted and does not run yet.
pub(super) fn is_manager(node: &Node) -> bool {
    node.raft_id != 0 && (!node.manager_address.is_empty() || node.state() == NodeState::Down)
}

/// One that left the swarm has no address as a manager any more.
fn is_reachable(manager: &Manager, node: &Node) -> bool {
    !node.manager_address.is_empty() && manager.reachable(node.raft_id)
}

/// swarmkit manager/state/raft CanRemoveMember: those that remain need a majority in reach.
fn keeps_quorum(manager: &Manager, state: &ClusterState, leaving: &Node) -> bool {
    let others = state
        .nodes
        .values()
        .filter(|n| n.raft_id != 0 && n.raft_id != leaving.raft_id && !n.manager_address.is_empty());
    let (all, reachable) = others.fold((0, 0), |(all, reachable), node| {
        (all + 1, reachable + usize::from(manager.reachable(node.raft_id)))
    });
    // None: the last manager, which apply refuses.
    all == 0 || leaving.manager_address.is_empty() || reachable > all / 2
}

fn shape(manager: &Manager, state: &ClusterState, node: &Node) -> NodeShape {
    let leader = manager.leader().borrow().clone();
    let status = is_manager(node).then(|| ManagerStatus {
        leader: leader.is_some_and(|leader| leader.raft_id == node.raft_id),
        reachability: if is_reachable(manager, node) {
            "reachable"
        } else {
            "unreachable"
        },
        addr: node.manager_address.clone(),
    });
    node_shape(node, state.cluster.as_deref(), status)
}

pub fn list(api: &Api, query: &Query) -> Answer {
    let manager = manager(api.daemon.membership())?;
    let filters = filters(
        query,
        &["id", "name", "label", "node.label", "role", "membership"],
    )?;
    for role in filters.get("role") {
        parse_role(role).ok_or_else(|| bad_request(format!("Invalid role filter: '{role}'")))?;
    }
    for membership in filters.get("membership") {
        if !["accepted", "pending"].contains(&membership.as_str()) {
            return Err(bad_request(format!("Invalid membership filter: '{membership}'")));
        }
    }
    let state = manager.state().borrow().clone();
    let none = Labels::new();
    let nodes = state.nodes.values().filter(|node| {
        let description = node.description.as_ref();
        filters.prefix("id", &node.id)
            && filters.prefix("name", description.map_or("", |d| d.hostname.as_str()))
            && filters.labels("label", description.map_or(&none, |d| &d.engine_labels))
            && filters.labels("node.label", &node.spec.annotations.labels)
            && filters.exact("role", role_text(node.spec.role()))
            && filters.exact("membership", "accepted")
    });
    let shapes: Vec<NodeShape> = nodes.map(|node| shape(&manager, &state, node)).collect();
    ok(&shapes)
}

pub async fn inspect(api: &Api, reference: &str) -> Answer {
    let manager = manager(api.daemon.membership())?;
    let (state, node) = look_up(&manager, |state| find::node(state, reference)).await?;
    ok(&shape(&manager, &state, &node))
}

pub async fn update(api: &Api, reference: &str, body: Incoming, query: &Query) -> Answer {
    let spec: NodeSpec = read_json(body).await?;
    let version = version_index(query, "node")?;
    let manager = manager(api.daemon.membership())?;
    let (state, node) = look_up(&manager, |state| find::node(state, reference)).await?;
    let role = parse_role(&spec.role).ok_or_else(|| bad_request(format!("invalid Role: {:?}", spec.role)))?;
    let availability = parse_availability(&spec.availability)
        .ok_or_else(|| bad_request(format!("invalid Availability: {:?}", spec.availability)))?;
    if role == Role::Worker && node.spec.role() == Role::Manager && !keeps_quorum(&manager, &state, &node) {
        return Err(rpc_error(
            Code::FailedPrecondition,
            "can't remove member from the raft: this would result in a loss of quorum",
        ));
    }
    manager
        .propose(Change::UpdateNode(UpdateNode {
            id: node.id.clone(),
            version,
            spec: model::NodeSpec {
                annotations: Annotations {
                    name: spec.name,
                    labels: spec.labels,
                },
                role: role.into(),
                availability: availability.into(),
            },
        }))
        .await?;
    empty(StatusCode::OK)
}

pub async fn remove(api: &Api, reference: &str, query: &Query) -> Answer {
    let manager = manager(api.daemon.membership())?;
    let (_, node) = look_up(&manager, |state| find::node(state, reference)).await?;
    manager
        .propose(Change::RemoveNode(RemoveNode {
            id: node.id.clone(),
            force: query.flag("force"),
        }))
        .await?;
    empty(StatusCode::OK)
}
