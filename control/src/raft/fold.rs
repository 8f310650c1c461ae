//! Stand-in for core's apply and snapshot until they are there.

use std::sync::Arc;

use prost::Message;

use crate::core::state::ClusterState;
use crate::model::*;

#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(message, optional, tag = "1")]
    cluster: Option<Cluster>,
    #[prost(message, repeated, tag = "2")]
    nodes: Vec<Node>,
    #[prost(message, repeated, tag = "3")]
    services: Vec<Service>,
    #[prost(uint64, tag = "4")]
    index: u64,
    #[prost(uint64, tag = "5")]
    last_raft_id: u64,
    #[prost(uint32, tag = "6")]
    last_node_index: u32,
}

pub fn apply(state: &mut ClusterState, index: u64, command: &Command) -> Applied {
    state.index = index;
    let mut applied = Applied { index, ..Default::default() };
    match &command.change {
        Some(Change::InitCluster(init)) => {
            state.cluster = Some(Arc::new(init.cluster.clone()));
            state.last_raft_id = 1;
            state.last_node_index = 1;
            let mut node = init.node.clone();
            (node.index, node.raft_id) = (1, 1);
            (applied.node_index, applied.raft_id) = (1, 1);
            state.nodes.insert(node.id.clone(), Arc::new(node));
        }
        Some(Change::CreateNode(create)) => {
            let mut node = create.node.clone();
            state.last_node_index += 1;
            node.index = state.last_node_index;
            if node.spec.role == Role::Manager as i32 {
                state.last_raft_id += 1;
                node.raft_id = state.last_raft_id;
            }
            (applied.node_index, applied.raft_id) = (node.index, node.raft_id);
            state.nodes.insert(node.id.clone(), Arc::new(node));
        }
        Some(Change::ReportNode(report)) => {
            if let Some(node) = state.nodes.get_mut(&report.id) {
                let node = Arc::make_mut(node);
                if let Some(s) = report.state {
                    node.state = s;
                }
            }
        }
        Some(Change::UpdateNode(update)) => {
            if let Some(node) = state.nodes.get_mut(&update.id) {
                Arc::make_mut(node).spec = update.spec.clone();
            }
        }
        Some(Change::RemoveNode(remove)) => {
            state.nodes.remove(&remove.id);
        }
        Some(Change::CreateService(create)) => {
            let service = Service { id: create.id.clone(), spec: create.spec.clone(), ..Default::default() };
            state.services.insert(create.id.clone(), Arc::new(service));
        }
        _ => {}
    }
    applied
}

pub fn encode(state: &ClusterState) -> Vec<u8> {
    Stored {
        cluster: state.cluster.as_deref().cloned(),
        nodes: state.nodes.values().map(|n| (**n).clone()).collect(),
        services: state.services.values().map(|n| (**n).clone()).collect(),
        index: state.index,
        last_raft_id: state.last_raft_id,
        last_node_index: state.last_node_index,
    }
    .encode_to_vec()
}

pub fn decode(bytes: &[u8]) -> Result<ClusterState, prost::DecodeError> {
    let s = Stored::decode(bytes)?;
    Ok(ClusterState {
        index: s.index,
        cluster: s.cluster.map(Arc::new),
        nodes: s.nodes.into_iter().map(|n| (n.id.clone(), Arc::new(n))).collect(),
        services: s.services.into_iter().map(|n| (n.id.clone(), Arc::new(n))).collect(),
        last_raft_id: s.last_raft_id,
        last_node_index: s.last_node_index,
        ..Default::default()
    })
}
