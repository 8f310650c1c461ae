//! A new root takes over once every node has a certificate of it (swarmkit ca/reconciler.go). Nodes renew theirs because
//! the roots they are told to trust changed; a node that is down holds the rotation up until it comes back or is removed.

use std::sync::Arc;

use crate::ca::token;
use crate::core::root;
use crate::core::state::ClusterState;
use crate::manager::Propose;
use crate::model::*;
use crate::raft::group::Group;

/// The root that every node has a certificate of, if a rotation to it is under way.
fn arrived(state: &ClusterState) -> Option<&RootRotation> {
    let rotation = state.cluster.as_ref()?.root_rotation.as_ref()?;
    let issuer = root::digest(&rotation.ca_cert);
    let all = state.nodes.values().all(|n| n.issuer_digest == issuer);
    all.then_some(rotation)
}

/// Runs while this manager leads.
pub async fn finish(group: Arc<Group>) {
    let mut state = group.state();
    loop {
        let now = state.borrow_and_update().clone();
        if let Some(rotation) = arrived(&now) {
            let change = FinishRootRotation {
                ca_cert: rotation.ca_cert.clone(),
                worker_token: token::make(&rotation.ca_cert, rand::random()),
                manager_token: token::make(&rotation.ca_cert, rand::random()),
            };
            match group.propose(Change::FinishRootRotation(change)).await {
                Ok(_) => tracing::info!("the new root certificate has taken over"),
                // Looked at again with the next change of the state.
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "finish the rotation of the root"
                ),
            }
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}
