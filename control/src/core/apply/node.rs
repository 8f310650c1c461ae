//! Nodes: numbers from counters that only rise, specs by users, the rest as observed.

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

pub fn update(state: &mut ClusterState, at: At, c: &UpdateNode) -> Answer {
    let node = state
        .nodes
        .get_mut(&c.id)
        .ok_or_else(|| not_found("node", &c.id))?;
    in_sequence(&node.meta, c.version)?;
    if c.spec.role != node.spec.role {
        return Err(refuse(
            Code::Unimplemented,
            "promoting and demoting nodes is not supported yet",
        ));
    }
    let node = Arc::make_mut(node);
    node.spec = c.spec.clone();
    at.touch(&mut node.meta);
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
    if node.spec.role() == Role::Manager && !node.manager_address.is_empty() {
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
