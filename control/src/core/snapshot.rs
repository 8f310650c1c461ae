//! The state as bytes: what a Raft snapshot carries. Tags are part of the disk and wire format.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;

use super::state::ClusterState;
use crate::model::*;

/// Raised when an older reader could not make sense of what a newer writer left out or changed.
const FORMAT: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Snapshot {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(message, optional, tag = "3")]
    cluster: Option<Cluster>,
    #[prost(message, repeated, tag = "4")]
    nodes: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    services: Vec<Service>,
    #[prost(message, repeated, tag = "6")]
    tasks: Vec<Task>,
    #[prost(message, repeated, tag = "7")]
    networks: Vec<Network>,
    #[prost(message, repeated, tag = "8")]
    attachments: Vec<Attachment>,
    #[prost(uint32, tag = "9")]
    last_node_index: u32,
    #[prost(uint64, tag = "10")]
    last_raft_id: u64,
    #[prost(uint32, tag = "11")]
    last_vni: u32,
    #[prost(message, repeated, tag = "12")]
    resting: Vec<Resting>,
    #[prost(message, repeated, tag = "13")]
    ingress_addresses: Vec<IngressAddress>,
    #[prost(uint32, tag = "14")]
    last_ingress_index: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Resting {
    #[prost(string, tag = "1")]
    network_id: String,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(int64, tag = "3")]
    until: Timestamp,
}

/// Why bytes are not a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("snapshot does not decode")]
    Decode(#[from] prost::DecodeError),
    #[error("snapshot has format {0}, this version reads format {FORMAT}")]
    Format(u32),
}

/// Equal states have equal bytes: records are in the order of their ids.
pub fn encode(state: &ClusterState) -> Vec<u8> {
    let resting = state
        .resting
        .iter()
        .map(|((network_id, address), until)| Resting {
            network_id: network_id.clone(),
            address: address.clone(),
            until: *until,
        });
    Snapshot {
        format: FORMAT,
        index: state.index,
        cluster: state.cluster.as_deref().cloned(),
        nodes: records(&state.nodes),
        services: records(&state.services),
        tasks: records(&state.tasks),
        networks: records(&state.networks),
        attachments: records(&state.attachments),
        last_node_index: state.last_node_index,
        last_raft_id: state.last_raft_id,
        last_vni: state.last_vni,
        resting: resting.collect(),
        ingress_addresses: records(&state.ingress_addresses),
        last_ingress_index: state.last_ingress_index,
    }
    .encode_to_vec()
}

fn records<T: Clone>(by_id: &BTreeMap<String, Arc<T>>) -> Vec<T> {
    by_id.values().map(|record| T::clone(record)).collect()
}

pub fn decode(bytes: &[u8]) -> Result<ClusterState, SnapshotError> {
    let snapshot = Snapshot::decode(bytes)?;
    if snapshot.format != FORMAT {
        return Err(SnapshotError::Format(snapshot.format));
    }
    Ok(ClusterState {
        index: snapshot.index,
        cluster: snapshot.cluster.map(Arc::new),
        nodes: by_id(snapshot.nodes, |n| &n.id),
        services: by_id(snapshot.services, |s| &s.id),
        tasks: by_id(snapshot.tasks, |t| &t.id),
        networks: by_id(snapshot.networks, |n| &n.id),
        attachments: by_id(snapshot.attachments, |a| &a.id),
        last_node_index: snapshot.last_node_index,
        last_raft_id: snapshot.last_raft_id,
        last_vni: snapshot.last_vni,
        resting: snapshot
            .resting
            .into_iter()
            .map(|r| ((r.network_id, r.address), r.until))
            .collect(),
        ingress_addresses: by_id(snapshot.ingress_addresses, |a| &a.id),
        last_ingress_index: snapshot.last_ingress_index,
    })
}

fn by_id<T>(records: Vec<T>, id: impl Fn(&T) -> &String) -> BTreeMap<String, Arc<T>> {
    records
        .into_iter()
        .map(|r| (id(&r).clone(), Arc::new(r)))
        .collect()
}
