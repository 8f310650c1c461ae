//! The swarm's own record.

use std::sync::Arc;

use super::{Answer, At, in_sequence, network};
use crate::core::address::FIRST_VNI;
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
    if let Some(token) = &c.worker_token {
        cluster.worker_token = token.clone();
    }
    if let Some(token) = &c.manager_token {
        cluster.manager_token = token.clone();
    }
    at.touch(&mut cluster.meta);
    Ok(Applied::default())
}
