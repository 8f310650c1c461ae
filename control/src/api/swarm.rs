//! `/swarm` and the `Swarm` member of `/info`.

use hyper::StatusCode;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::answer::{
    Answer, LOCKED, bad_request, empty, fail, manager, not_built, ok, read_json, rpc_error, version_index,
};
use super::core::query::Query;
use super::core::shape::cluster::{ClusterInfo, SwarmSpec};
use super::core::shape::node::parse_availability;
use super::nodes::is_manager;
use crate::ca::{Authority, AuthorityError, UnlockKey};
use crate::core::state::ClusterState;
use crate::daemon::{ApiError, InitRequest, JoinRequest, Member, Membership};
use crate::manager::ControlError;
use crate::model::{Availability, Change, Cluster, Code, RootRotation, UpdateCluster};

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct InitBody {
    listen_addr: String,
    advertise_addr: String,
    data_path_addr: String,
    data_path_port: u32,
    default_addr_pool: Vec<String>,
    subnet_size: u32,
    force_new_cluster: bool,
    auto_lock_managers: bool,
    availability: String,
    spec: SwarmSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct UnlockBody {
    unlock_key: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct JoinBody {
    listen_addr: String,
    advertise_addr: String,
    data_path_addr: String,
    remote_addrs: Vec<String>,
    join_token: String,
    availability: String,
}

fn unavailable(message: &str) -> ApiError {
    fail(StatusCode::SERVICE_UNAVAILABLE, message)
}

fn refuse_if_member(membership: &Membership) -> Result<(), ApiError> {
    match membership {
        Membership::Inactive => Ok(()),
        _ => Err(unavailable(
            "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
        )),
    }
}

fn availability(text: &str) -> Result<Availability, ApiError> {
    if text.is_empty() {
        return Ok(Availability::Active);
    }
    parse_availability(text).ok_or_else(|| bad_request(format!("invalid Availability: {text:?}")))
}

/// Answers the node id as a bare JSON string.
pub async fn init(api: &Api, body: Incoming) -> Answer {
    let body: InitBody = read_json(body).await?;
    let membership = api.daemon.membership();
    if !body.force_new_cluster {
        refuse_if_member(&membership)?;
    } else if !matches!(membership, Membership::Manager(..) | Membership::Inactive) {
        manager(membership)?;
    }
    let port = body.data_path_port;
    if port != 0 && !(1024..=49151).contains(&port) {
        return Err(bad_request(format!(
            "Datapath port number is not in valid range (1024-49151) : {port}"
        )));
    }
    let mut spec = checked_spec(body.spec)?.into_model();
    spec.auto_lock_managers |= body.auto_lock_managers;
    check_pools(&body.default_addr_pool, body.subnet_size)?;
    let node_id = api
        .daemon
        .init(InitRequest {
            listen_addr: body.listen_addr,
            advertise_addr: body.advertise_addr,
            data_path_addr: body.data_path_addr,
            data_path_port: body.data_path_port,
            default_addr_pool: body.default_addr_pool,
            subnet_size: body.subnet_size,
            availability: availability(&body.availability)?,
            force_new_cluster: body.force_new_cluster,
            spec,
        })
        .await?;
    ok(&node_id)
}

/// moby daemon/cluster/listen_addr.go validateDefaultAddrPool.
fn check_pools(pools: &[String], size: u32) -> Result<(), ApiError> {
    let size = if size == 0 { 24 } else { size };
    if !pools.is_empty() && size > 29 {
        return Err(bad_request(format!("subnet size is out of range: {size}")));
    }
    for pool in pools {
        let bits = pool
            .rsplit_once('/')
            .and_then(|(_, bits)| bits.parse::<u32>().ok());
        if bits.is_some_and(|bits| size < bits) {
            return Err(bad_request(format!(
                "invalid CIDR: {pool:?}. Subnet size is too small for pool: {size}"
            )));
        }
    }
    Ok(())
}

fn checked_spec(spec: SwarmSpec) -> Result<SwarmSpec, ApiError> {
    if let Some(feature) = spec.not_built() {
        return Err(not_built(feature));
    }
    if !matches!(spec.name.as_str(), "" | "default") {
        return Err(bad_request("swarm spec must be named \"default\""));
    }
    let hour = 3600 * 1_000_000_000;
    if spec.ca_config.node_cert_expiry != 0 && spec.ca_config.node_cert_expiry < hour {
        return Err(rpc_error(
            Code::InvalidArgument,
            "minimum certificate expiry time is: 1h0m0s",
        ));
    }
    if spec.dispatcher.heartbeat_period < 0 {
        return Err(rpc_error(
            Code::InvalidArgument,
            "heartbeat time period cannot be a negative duration",
        ));
    }
    Ok(spec)
}

pub async fn join(api: &Api, body: Incoming) -> Answer {
    let body: JoinBody = read_json(body).await?;
    refuse_if_member(&api.daemon.membership())?;
    if body.remote_addrs.is_empty() {
        return Err(bad_request("at least 1 RemoteAddr is required to join"));
    }
    api.daemon
        .join(JoinRequest {
            listen_addr: body.listen_addr,
            advertise_addr: body.advertise_addr,
            data_path_addr: body.data_path_addr,
            remote_addrs: body.remote_addrs,
            join_token: body.join_token,
            availability: availability(&body.availability)?,
        })
        .await?;
    empty(StatusCode::OK)
}

pub async fn leave(api: &Api, query: &Query) -> Answer {
    let force = query.flag("force");
    match api.daemon.membership() {
        Membership::Inactive => return Err(unavailable("This node is not part of a swarm")),
        Membership::Locked { .. } if !force => {
            return Err(unavailable(
                "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.",
            ));
        }
        _ => {}
    }
    api.daemon.leave(force).await?;
    empty(StatusCode::OK)
}

pub fn inspect(api: &Api) -> Answer {
    let manager = manager(api.daemon.membership())?;
    let state = manager.state().borrow().clone();
    let cluster = state
        .cluster
        .as_ref()
        .ok_or_else(|| unavailable("This node is not a swarm manager. Manager is being prepared or has trouble connecting to the cluster."))?;
    let mut value = serde_json::to_value(ClusterInfo::from(cluster.as_ref())).map_err(|error| {
        fail(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("encoding the swarm: {error}"),
        )
    })?;
    value["JoinTokens"] = json!({"Worker": cluster.worker_token, "Manager": cluster.manager_token});
    ok(&value)
}

pub async fn update(api: &Api, body: Incoming, query: &Query) -> Answer {
    let spec: SwarmSpec = read_json(body).await?;
    let version = version_index(query, "swarm")?;
    let manager = manager(api.daemon.membership())?;
    let spec = checked_spec(spec)?.into_model();
    manager.barrier().await?;
    let state = manager.state().borrow().clone();
    let cluster = state.cluster.as_ref();
    let root_rotation = match cluster.filter(|c| c.spec.force_rotate != spec.force_rotate) {
        Some(cluster) => Some(new_root(cluster)?),
        None => None,
    };
    let rotated = |key: &str, token: fn(&ClusterState) -> Option<&str>| {
        query.flag(key).then(|| token(&state).and_then(rotate)).flatten()
    };
    manager
        .propose(Change::UpdateCluster(UpdateCluster {
            version,
            spec: Some(spec),
            worker_token: rotated("rotateWorkerToken", |s| {
                s.cluster.as_ref().map(|c| c.worker_token.as_str())
            }),
            manager_token: rotated("rotateManagerToken", |s| {
                s.cluster.as_ref().map(|c| c.manager_token.as_str())
            }),
            unlock_key: Some(UnlockKey::new(rand::random()).text()),
            rotate_unlock_key: query.flag("rotateManagerUnlockKey"),
            root_rotation,
        }))
        .await?;
    empty(StatusCode::OK)
}

/// A new root, and what makes nodes that know only the old one accept its certificates.
fn new_root(cluster: &Cluster) -> Result<RootRotation, ApiError> {
    let failed = |error: AuthorityError| rpc_error(Code::Unknown, &error.to_string());
    let now = time::OffsetDateTime::now_utc();
    let old = Authority {
        root_pem: cluster.root_ca_cert.clone(),
        root_key_pem: cluster.root_ca_key.clone(),
    };
    let new = Authority::make(now).map_err(failed)?;
    Ok(RootRotation {
        cross_signed: old.cross_sign(&new, now).map_err(failed)?,
        ca_cert: new.root_pem,
        ca_key: new.root_key_pem,
    })
}

/// `{"UnlockKey": ""}` while managers are not locked.
pub fn unlock_key(api: &Api) -> Answer {
    let manager = manager(api.daemon.membership())?;
    let state = manager.state().borrow().clone();
    let key = state.cluster.as_ref().map_or("", |c| c.unlock_key.as_str());
    ok(&json!({"UnlockKey": key}))
}

/// moby daemon/cluster/swarm.go UnlockSwarm.
pub async fn unlock(api: &Api, body: Incoming) -> Answer {
    let body: UnlockBody = read_json(body).await?;
    match api.daemon.membership() {
        Membership::Locked { .. } => {}
        Membership::Manager(..) => return Err(fail(StatusCode::CONFLICT, "swarm is not locked")),
        other => {
            manager(other)?;
        }
    }
    let key = UnlockKey::parse(&body.unlock_key).map_err(|error| bad_request(error.to_string()))?;
    api.daemon.unlock(key).await?;
    empty(StatusCode::OK)
}

/// A token with a new secret part: `SWMTKN-1-<digest of the root>-<16 random bytes in base 36>`.
fn rotate(token: &str) -> Option<String> {
    let (front, _) = token.rsplit_once('-')?;
    let mut value = u128::from_be_bytes(rand::random::<[u8; 16]>());
    let mut secret = [b'0'; 25];
    for digit in secret.iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(value % 36) as usize];
        value /= 36;
    }
    Some(format!("{front}-{}", String::from_utf8_lossy(&secret)))
}

/// moby daemon/cluster/swarm.go; scripts look for its first words.
const TWO_MANAGERS: &str =
    "WARNING: Running Swarm in a two-manager configuration. This configuration provides
         no fault tolerance, and poses a high risk to lose control over the cluster.
         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the
         Swarm for fault-tolerance.";

/// `Swarm` of `/info` (moby api/types/swarm/swarm.go Info).
pub fn info(api: &Api) -> Value {
    match api.daemon.membership() {
        Membership::Inactive => shape("inactive", "", None),
        Membership::Pending { error } => shape("pending", &error, None),
        Membership::Locked { .. } => shape("locked", LOCKED, None),
        Membership::Worker(member) => shape("active", "", Some(&member)),
        Membership::Manager(member, manager) => {
            let mut info = shape("active", "", Some(&member));
            let state = manager.state().borrow().clone();
            let managers = state.nodes.values().filter(|node| is_manager(node)).count();
            if manager.leader().borrow().is_none() {
                info["Error"] = json!(rpc_error(Code::Unknown, &ControlError::NoLeader.to_string()).message);
            }
            info["ControlAvailable"] = Value::Bool(true);
            info["Nodes"] = json!(state.nodes.len());
            info["Managers"] = json!(managers);
            if let Some(cluster) = &state.cluster {
                info["Cluster"] = json!(ClusterInfo::from(cluster.as_ref()));
            }
            if managers == 2 {
                info["Warnings"] = json!([TWO_MANAGERS]);
            }
            info
        }
    }
}

fn shape(local_state: &str, error: &str, member: Option<&Member>) -> Value {
    let managers = member.filter(|member| !member.managers.is_empty()).map(|member| {
        let peers = member
            .managers
            .iter()
            .map(|(id, address)| json!({"NodeID": id, "Addr": address}));
        peers.collect::<Vec<_>>()
    });
    json!({
        "NodeID": member.map_or("", |m| m.node_id.as_str()),
        "NodeAddr": member.map_or("", |m| m.address.as_str()),
        "LocalNodeState": local_state,
        "ControlAvailable": false,
        "Error": error,
        "RemoteManagers": managers,
    })
}
