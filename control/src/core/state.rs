//! The replicated state: what the Raft log folds to.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::*;

/// Everything the swarm knows, at one Raft index. Records are shared, so a clone is cheap enough to publish
/// after every batch of entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterState {
    /// Raft index of the last entry that was applied.
    pub index: u64,
    /// Absent before the first command.
    pub cluster: Option<Arc<Cluster>>,
    pub nodes: BTreeMap<String, Arc<Node>>,
    pub services: BTreeMap<String, Arc<Service>>,
    pub tasks: BTreeMap<String, Arc<Task>>,
    pub networks: BTreeMap<String, Arc<Network>>,
    pub attachments: BTreeMap<String, Arc<Attachment>>,
    /// Last numbers handed out; they only rise.
    pub last_node_index: u32,
    pub last_raft_id: u64,
    /// Addresses that were freed and may not be used again before the time given
    /// (key: network id and address without prefix length).
    pub resting: BTreeMap<(String, String), Timestamp>,
}
