//! `/networks`: overlays are the swarm's, all others the Engine's, and their twins nobody's.

mod connect;
mod prune;

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::Api;
use super::answer::{
    Answer, bad_request, empty, fail, filters, json as json_answer, look_up, manager, not_built, ok,
    parse_json, read_bytes,
};
use super::core::container::is_predefined;
use super::core::filter::Filters;
use super::core::find;
use super::core::query::Query;
use super::core::shape::network::{CreateRequest, Overlay};
use super::core::twin::Twins;
use super::io::engine::read;
use super::pass::{Call, pass, pass_with, stream};
use crate::core::state::ClusterState;
use crate::daemon::{ApiError, Membership, NodeDaemon};
use crate::model::id::object_id;
use crate::model::{Change, CreateNetwork, ItemKind, RemoveNetwork};

const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

/// The overlays this node knows and their twins: all of the swarm's on a manager, those it hosts on a worker.
pub fn twins(daemon: &dyn NodeDaemon) -> Twins {
    let overlays: BTreeMap<String, Overlay> = match daemon.membership() {
        Membership::Manager(_, manager) => {
            let state = manager.state().borrow().clone();
            let overlays = state
                .networks
                .values()
                .map(|network| Overlay::from(network.as_ref()));
            overlays.map(|overlay| (overlay.id.clone(), overlay)).collect()
        }
        _ => daemon
            .items()
            .values()
            .filter_map(|item| match &item.kind {
                Some(ItemKind::Network(network)) => {
                    Some((network.network_id.clone(), Overlay::from(network)))
                }
                _ => None,
            })
            .collect(),
    };
    Twins::new(daemon.twins(), overlays)
}

pub async fn answer(api: &Api, method: &str, segments: &[&str], call: Call, query: &Query) -> Answer {
    match (method, segments) {
        ("GET", ["networks"]) => list(api, call, query).await,
        ("POST", ["networks", "create"]) => create(api, call).await,
        ("POST", ["networks", "prune"]) => prune::prune(api, call, query).await,
        ("GET", ["networks", id]) => inspect(api, id, call, query).await,
        ("DELETE", ["networks", id]) => remove(api, id, call).await,
        ("POST", ["networks", id, "connect"]) => connect::connect(api, id, call).await,
        ("POST", ["networks", id, "disconnect"]) => connect::disconnect(api, id, call).await,
        _ => pass(api, call).await,
    }
}

async fn list(api: &Api, call: Call, query: &Query) -> Answer {
    let filters = filters(query, &FILTERS)?;
    let response = pass_with(api, call, Vec::new()).await?;
    if response.status() != StatusCode::OK {
        return Ok(stream(response));
    }
    let mut networks: Vec<Value> = json_of(response.into_body()).await?;
    let twins = twins(api.daemon.as_ref());
    networks.retain(|network| {
        network["Id"]
            .as_str()
            .is_none_or(|id| twins.swarm_id(id).is_none())
    });
    let used = used_networks(api);
    let ours = twins
        .overlays()
        .filter(|overlay| chosen(overlay, &filters, &used));
    networks.extend(ours.map(|overlay| overlay.inspect(None)));
    ok(&networks)
}

fn chosen(overlay: &Overlay, filters: &Filters, used: &dyn Fn(&str) -> bool) -> bool {
    filters.exact("driver", "overlay")
        && filters.exact("scope", "swarm")
        && filters.exact("type", "custom")
        && filters.any("id", |part| overlay.id.contains(part))
        && filters.any("name", |part| overlay.name.contains(part))
        && filters.labels("label", &overlay.labels)
        && filters.any("dangling", |wanted| {
            matches!(wanted, "true" | "1") != (overlay.ingress || used(&overlay.id))
        })
}

/// Whether a service, task or container of the swarm uses a network. A worker knows only networks in use.
fn used_networks(api: &Api) -> Box<dyn Fn(&str) -> bool + Send + Sync> {
    let Membership::Manager(_, manager) = api.daemon.membership() else {
        return Box::new(|_| true);
    };
    let state = manager.state().borrow().clone();
    Box::new(move |id| is_used(&state, id))
}

fn is_used(state: &ClusterState, id: &str) -> bool {
    let asked = |service: &crate::model::ServiceSpec| {
        let mut all = service.task.networks.iter().chain(&service.networks);
        all.any(|network| network.target == id)
    };
    state.services.values().any(|service| asked(&service.spec))
        || state
            .tasks
            .values()
            .any(|task| task.networks.iter().any(|n| n.network_id == id))
        || state
            .attachments
            .values()
            .any(|attachment| attachment.network.network_id == id)
}

async fn json_of<T: serde::de::DeserializeOwned>(body: Incoming) -> Result<T, ApiError> {
    let bytes = read(body, "/networks").await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        fail(
            StatusCode::BAD_GATEWAY,
            format!("the Docker Engine's answer is not JSON: {error}"),
        )
    })
}

/// The overlay that a reference means for sure: by full id, name, or a part of its twin's id.
fn surely<'a>(twins: &'a Twins, reference: &str) -> Option<&'a Overlay> {
    twins
        .exact(reference)
        .or_else(|| twins.by_engine_prefix(reference))
}

/// The overlay whose id begins so, once the Engine has said that it knows no such network.
async fn by_prefix(api: &Api, reference: &str) -> Result<Option<Overlay>, ApiError> {
    let found: Vec<Overlay> = twins(api.daemon.as_ref()).by_prefix(reference).cloned().collect();
    match found.as_slice() {
        [] => {}
        [one] => return Ok(Some(one.clone())),
        many => {
            return Err(bad_request(format!(
                "network {reference} is ambiguous ({} matches found)",
                many.len()
            )));
        }
    }
    let Membership::Manager(_, manager) = api.daemon.membership() else {
        return Ok(None);
    };
    let found = look_up(&manager, |state| find::network(state, reference)).await;
    Ok(found.ok().map(|(_, network)| Overlay::from(network.as_ref())))
}

async fn inspect(api: &Api, reference: &str, call: Call, query: &Query) -> Answer {
    let twins = twins(api.daemon.as_ref());
    if query.get("scope") != "local"
        && let Some(overlay) = surely(&twins, reference)
    {
        return ok(&inspect_overlay(api, &twins, overlay).await?);
    }
    let response = pass(api, call).await;
    let unknown = response
        .as_ref()
        .is_ok_and(|response| response.status() == StatusCode::NOT_FOUND);
    if (unknown || response.is_err())
        && let Some(overlay) = by_prefix(api, reference).await?
    {
        return ok(&inspect_overlay(api, &twins, &overlay).await?);
    }
    response
}

/// With the containers of this node, which the Engine knows by the twin. Without them while the Engine is down.
async fn inspect_overlay(api: &Api, twins: &Twins, overlay: &Overlay) -> Result<Value, ApiError> {
    let Some(engine_id) = twins.engine_id(&overlay.id) else {
        return Ok(overlay.inspect(None));
    };
    match api.engine.get(&format!("/networks/{engine_id}")).await {
        Ok((StatusCode::OK, twin)) => {
            let mut network = overlay.inspect(Some(&twin["Containers"]));
            if overlay.created == 0 {
                // A worker knows only when its part was made.
                network["Created"] = twin["Created"].clone();
            }
            Ok(network)
        }
        Ok(_) => Ok(overlay.inspect(None)),
        Err(error) => {
            tracing::debug!(%error, "inspecting a twin network");
            Ok(overlay.inspect(None))
        }
    }
}

async fn create(api: &Api, call: Call) -> Answer {
    let (call, bytes) = take_body(call).await?;
    let request: CreateRequest = parse_json(&bytes)?;
    let taken = || {
        fail(
            StatusCode::CONFLICT,
            format!("network with name {} already exists", request.name),
        )
    };
    let ours = request.driver == "overlay" || request.scope == "swarm";
    let overlays = twins(api.daemon.as_ref());
    if !ours {
        if overlays.overlays().any(|overlay| overlay.name == request.name) {
            return Err(taken());
        }
        return Ok(stream(pass_with(api, call, bytes.to_vec()).await?));
    }
    let manager = manager(api.daemon.membership())?;
    if let Some(feature) = request.not_built() {
        return Err(not_built(feature));
    }
    if !request.name.is_empty() && is_predefined(&request.name) {
        return Err(fail(
            StatusCode::FORBIDDEN,
            format!(
                "operation is not permitted on predefined {} network",
                request.name
            ),
        ));
    }
    if overlays.overlays().any(|overlay| overlay.name == request.name)
        || engine_has(api, &overlays, &request.name).await
    {
        return Err(taken());
    }
    let id = object_id(rand::random());
    manager
        .propose(Change::CreateNetwork(CreateNetwork {
            id: id.clone(),
            spec: request.into_model(),
        }))
        .await?;
    json_answer(StatusCode::CREATED, &json!({"Id": id, "Warning": ""}))
}

/// Whether the Engine has a network of that name that is no twin. While it is down nothing is known to clash.
async fn engine_has(api: &Api, twins: &Twins, name: &str) -> bool {
    match api.engine.get("/networks").await {
        Ok((StatusCode::OK, Value::Array(networks))) => networks.iter().any(|network| {
            network["Name"] == name
                && network["Id"]
                    .as_str()
                    .is_some_and(|id| twins.swarm_id(id).is_none())
        }),
        Ok(_) => false,
        Err(error) => {
            tracing::debug!(%error, "looking for networks of the same name");
            false
        }
    }
}

async fn remove(api: &Api, reference: &str, call: Call) -> Answer {
    let known = twins(api.daemon.as_ref());
    if let Some(overlay) = surely(&known, reference) {
        return remove_overlay(api, &overlay.id).await;
    }
    let response = pass(api, call).await;
    if response
        .as_ref()
        .is_ok_and(|response| response.status() == StatusCode::NOT_FOUND)
        && let Some(overlay) = by_prefix(api, reference).await?
    {
        return remove_overlay(api, &overlay.id).await;
    }
    response
}

async fn remove_overlay(api: &Api, id: &str) -> Answer {
    manager(api.daemon.membership())?
        .propose(Change::RemoveNetwork(RemoveNetwork { id: id.to_string() }))
        .await?;
    empty(StatusCode::NO_CONTENT)
}

async fn take_body(mut call: Call) -> Result<(Call, Bytes), ApiError> {
    let bytes = read_bytes(call.request.body_mut()).await?;
    Ok((call, bytes))
}
