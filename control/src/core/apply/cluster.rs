//! The swarm's own record.

use std::sync::Arc;

use super::{Answer, At, in_sequence, network};
use crate::core::address::FIRST_VNI;
use crate::core::root;
use crate::core::state::ClusterState;
use crate::core::validate::refuse;
use crate::model::*;

/// The ingress network's name in every answer of the API.
const INGRESS: &str = "ingress";
pub const DEFAULT_INGRESS_SUBNET: &str = "10.255.0.0/16";

/// Cluster, first node (index 1, Raft id 1 if a manager) and ingress network.
pub fn init(state: &mut ClusterState, at: At, c: &InitCluster) -> Answer {
    if state.cluster.is_some() {
        return Err(refuse(
            Code::FailedPrecondition,
            "the swarm is initialized already",
        ));
    }
    let mut next = state.clone();
    next.cluster = Some(Arc::new(Cluster {
        meta: at.created(),
        ..c.cluster.clone()
    }));
    let applied = super::node::create(&mut next, at, &CreateNode { node: c.node.clone() })?;
    let subnet = match c.ingress_subnet.as_str() {
        "" => DEFAULT_INGRESS_SUBNET,
        asked => asked,
    };
    let spec = NetworkSpec {
        annotations: Annotations {
            name: INGRESS.to_string(),
            ..Default::default()
        },
        ingress: true,
        ipam: Some(IpamOptions {
            driver: None,
            configs: vec![IpamConfig {
                subnet: subnet.to_string(),
                ..Default::default()
            }],
        }),
        ..Default::default()
    };
    next.last_vni = FIRST_VNI - 1;
    let id = c.ingress_network_id.clone();
    network::create(&mut next, at, &CreateNetwork { id, spec })?;
    *state = next;
    Ok(applied)
}

pub fn update(state: &mut ClusterState, at: At, c: &UpdateCluster) -> Answer {
    let Some(cluster) = &mut state.cluster else {
        return Err(refuse(Code::FailedPrecondition, "the swarm is not initialized"));
    };
    if c.version != 0 {
        in_sequence(&cluster.meta, c.version)?;
    }
    let cluster = Arc::make_mut(cluster);
    if let Some(spec) = &c.spec {
        cluster.spec = spec.clone();
    }
    // swarmkit manager/controlapi/cluster.go UpdateCluster: a key while managers are locked, none otherwise.
    let locked = cluster.spec.auto_lock_managers;
    if !locked {
        cluster.unlock_key = String::new();
    } else if (cluster.unlock_key.is_empty() || c.rotate_unlock_key)
        && let Some(key) = &c.unlock_key
    {
        cluster.unlock_key = key.clone();
    }
    if let Some(rotation) = &c.root_rotation {
        cluster.root_rotation = Some(rotation.clone());
    }
    if let Some(token) = &c.worker_token {
        cluster.worker_token = token.clone();
    }
    if let Some(token) = &c.manager_token {
        cluster.manager_token = token.clone();
    }
    at.touch(&mut cluster.meta);
    Ok(Applied::default())
}

/// The new root takes over: tokens name it, and nodes trust it alone.
pub fn finish_rotation(state: &mut ClusterState, at: At, c: &FinishRootRotation) -> Answer {
    let Some(cluster) = &mut state.cluster else {
        return Err(refuse(Code::FailedPrecondition, "the swarm is not initialized"));
    };
    let rotation = cluster.root_rotation.clone();
    let Some(rotation) = rotation.filter(|r| r.ca_cert == c.ca_cert) else {
        return Err(refuse(
            Code::FailedPrecondition,
            "no rotation to this root is under way",
        ));
    };
    let issuer = root::digest(&rotation.ca_cert);
    if let Some(node) = state.nodes.values().find(|n| n.issuer_digest != issuer) {
        return Err(refuse(
            Code::FailedPrecondition,
            format!("node {} has no certificate of the new root yet", node.id),
        ));
    }
    let cluster = Arc::make_mut(cluster);
    cluster.root_ca_cert = rotation.ca_cert;
    cluster.root_ca_key = rotation.ca_key;
    cluster.root_rotation = None;
    cluster.worker_token = c.worker_token.clone();
    cluster.manager_token = c.manager_token.clone();
    at.touch(&mut cluster.meta);
    Ok(Applied::default())
}
