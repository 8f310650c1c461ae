//! Nodes: numbers from counters that only rise, specs by users, the rest as observed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Answer, At, in_sequence, not_found, task};
use crate::core::ingress;
use crate::core::state::{ClusterState, REST};
use crate::core::validate::refuse;
use crate::model::*;

pub fn create(state: &mut ClusterState, at: At, c: &CreateNode) -> Answer {
    if c.node.id.is_empty() {
        return Err(refuse(Code::InvalidArgument, "node id must be provided"));
    }
    if state.nodes.contains_key(&c.node.id) {
        return Err(refuse(
            Code::AlreadyExists,
            format!("node {} already exists", c.node.id),
        ));
    }
    for text in [&c.node.address, &c.node.data_path_address] {
        let taken = ingress::bare(text).filter(|address| state.ingress_address(*address).is_some());
        if let Some(address) = taken {
            return Err(refuse(
                Code::InvalidArgument,
                format!("{address} is an ingress address of the swarm: no node can have it as its own"),
            ));
        }
    }
    state.last_node_index += 1;
    let mut node = Node {
        meta: at.created(),
        index: state.last_node_index,
        raft_id: 0,
        ..c.node.clone()
    };
    if node.spec.role() == Role::Manager {
        state.last_raft_id += 1;
        node.raft_id = state.last_raft_id;
    }
    let applied = Applied {
        node_index: node.index,
        raft_id: node.raft_id,
        ..Default::default()
    };
    state.nodes.insert(node.id.clone(), Arc::new(node));
    Ok(applied)
}

/// A manager that is asked to be a worker stays a Raft member (`raft_id`) until the leader has taken it out; a worker
/// that is asked to be a manager has its Raft id at once, and its address as a manager when it runs.
pub fn update(state: &mut ClusterState, at: At, c: &UpdateNode) -> Answer {
    let managers: BTreeSet<String> = state
        .nodes
        .values()
        .filter(|n| n.spec.role() == Role::Manager && !n.manager_address.is_empty())
        .map(|n| n.id.clone())
        .collect();
    let node = state
        .nodes
        .get_mut(&c.id)
        .ok_or_else(|| not_found("node", &c.id))?;
    in_sequence(&node.meta, c.version)?;
    let was = node.spec.role();
    let last_manager = managers.len() == 1 && managers.contains(&c.id);
    match (was, c.spec.role()) {
        (Role::Manager, Role::Worker) if last_manager => {
            return Err(refuse(
                Code::FailedPrecondition,
                "attempting to demote the last manager of the swarm",
            ));
        }
        (Role::Worker, Role::Manager) if node.raft_id != 0 => {
            return Err(refuse(
                Code::FailedPrecondition,
                format!("node {} is still being demoted", c.id),
            ));
        }
        (Role::Worker, Role::Manager) => {
            state.last_raft_id += 1;
            Arc::make_mut(node).raft_id = state.last_raft_id;
        }
        _ => {}
    }
    let node = Arc::make_mut(node);
    node.spec = c.spec.clone();
    at.touch(&mut node.meta);
    Ok(Applied::default())
}

/// The Raft group of the named manager goes on alone. The others are workers; such as come back renew their certificates.
pub fn force_new_cluster(state: &mut ClusterState, at: At, c: &ForceNewCluster) -> Answer {
    if !state.nodes.contains_key(&c.node_id) {
        return Err(not_found("node", &c.node_id));
    }
    for (id, record) in &mut state.nodes {
        if record.raft_id == 0 {
            continue;
        }
        let node = Arc::make_mut(record);
        if *id == c.node_id {
            node.manager_address.clone_from(&c.manager_address);
        } else {
            node.spec.role = Role::Worker as i32;
            node.raft_id = 0;
            node.manager_address = String::new();
            node.left_behind = true;
        }
        at.touch(&mut node.meta);
    }
    Ok(Applied::default())
}

pub fn report(state: &mut ClusterState, at: At, c: &ReportNode) -> Answer {
    let record = state
        .nodes
        .get_mut(&c.id)
        .ok_or_else(|| not_found("node", &c.id))?;
    let mut node = Node::clone(record);
    if let Some(known) = c.state.and_then(|s| NodeState::try_from(s).ok()) {
        if known != node.state() {
            node.down_since = if known == NodeState::Down { at.now } else { 0 };
        }
        node.state = known as i32;
    }
    if let Some(description) = &c.description {
        node.description = Some(description.clone());
    }
    for (field, told) in [
        (&mut node.message, &c.message),
        (&mut node.address, &c.address),
        (&mut node.data_path_address, &c.data_path_address),
        (&mut node.manager_address, &c.manager_address),
        (&mut node.certificate, &c.certificate),
    ] {
        if let Some(told) = told {
            field.clone_from(told);
        }
    }
    if let Some(digest) = &c.trust_digest {
        node.trust_digest.clone_from(digest);
        // Its certificate says worker now.
        node.left_behind = false;
    }
    if let Some(digest) = &c.issuer_digest {
        node.issuer_digest.clone_from(digest);
    }
    if c.demoted && node.spec.role() == Role::Worker {
        node.raft_id = 0;
        node.manager_address = String::new();
    }
    if node != **record {
        at.touch(&mut node.meta);
        *record = Arc::new(node);
    }
    Ok(Applied::default())
}

/// Its tasks are orphaned (swarmkit manager/controlapi/node.go `orphanNodeTasks`), its attachments go.
pub fn remove(state: &mut ClusterState, at: At, c: &RemoveNode) -> Answer {
    let node = state.nodes.get(&c.id).ok_or_else(|| not_found("node", &c.id))?;
    // One that left the swarm, or never came into it, has no address as a manager any more: it is no Raft member.
    if node.raft_id != 0 && !node.manager_address.is_empty() {
        return Err(refuse(
            Code::FailedPrecondition,
            format!(
                "node {} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal",
                c.id
            ),
        ));
    }
    if !c.force && node.state() == NodeState::Ready {
        return Err(refuse(
            Code::FailedPrecondition,
            format!("node {} is not down and can't be removed", c.id),
        ));
    }
    state.nodes.remove(&c.id);
    let orphans: Vec<String> = state
        .tasks
        .values()
        .filter(|t| t.node_id == c.id)
        .map(|t| t.id.clone())
        .collect();
    for id in orphans {
        task::orphan(
            state,
            at,
            &id,
            "Task belonged to a node that has been deleted",
            at.now + REST,
        );
    }
    let gone: Vec<Arc<Attachment>> = state
        .attachments
        .values()
        .filter(|a| a.node_id == c.id)
        .cloned()
        .collect();
    for attachment in gone {
        super::attachment::free(state, &attachment, at.now + REST);
    }
    Ok(Applied::default())
}
