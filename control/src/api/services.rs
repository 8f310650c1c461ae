//! `/services`.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{HeaderMap, Request, StatusCode};
use serde_json::json;

use super::Api;
use super::answer::{
    Answer, bad_request, bool_value, decode, empty, filters, json as json_answer, look_up, manager,
    not_built, ok, parse_value, read_bytes, rpc_error, version_index,
};
use super::core::query::Query;
use super::core::shape::service::{ServiceShape, service_status};
use super::core::shape::spec::ServiceSpec;
use super::core::version::ApiVersion;
use super::core::{find, gate, image, names};
use crate::core::state::mode_of;
use crate::daemon::ApiError;
use crate::manager::Manager;
use crate::model::id::object_id;
use crate::model::{self, Change, Code, CreateService, RemoveService, UpdateService};

/// First version with `?status`.
const STATUS: ApiVersion = ApiVersion { major: 1, minor: 41 };

pub fn list(api: &Api, version: Option<ApiVersion>, query: &Query) -> Answer {
    // Clients before 1.41 know no status.
    let with_status = version.is_none_or(|version| version >= STATUS) && bool_value(query, "status")?;
    let manager = manager(api.daemon.membership())?;
    let filters = filters(query, &["id", "name", "label", "mode", "runtime"])?;
    let state = manager.state().borrow().clone();
    let services = state.services.values().filter(|service| {
        filters.prefix("id", &service.id)
            && filters.prefix("name", &service.spec.annotations.name)
            && filters.labels("label", &service.spec.annotations.labels)
            && filters.exact("mode", mode_of(&service.spec))
            && filters.exact("runtime", "container")
    });
    let shapes: Vec<ServiceShape> = services
        .map(|service| {
            let mut shape = ServiceShape::from(service.as_ref());
            shape.service_status = with_status.then(|| service_status(&state, service));
            shape
        })
        .collect();
    ok(&shapes)
}

pub async fn inspect(api: &Api, reference: &str, query: &Query) -> Answer {
    let with_defaults = bool_value(query, "insertDefaults")?;
    let manager = manager(api.daemon.membership())?;
    let (_, service) = look_up(&manager, |state| find::service(state, reference)).await?;
    let mut shape = ServiceShape::from(service.as_ref());
    if with_defaults {
        shape.spec.insert_defaults();
    }
    ok(&shape)
}

/// Reads a spec as a client of `version` means it.
async fn read_spec(mut body: Incoming, version: Option<ApiVersion>) -> Result<ServiceSpec, ApiError> {
    let mut value = parse_value(&read_bytes(&mut body).await?)?;
    gate::adjust(version, &mut value);
    decode(value)
}

pub async fn create(api: &Api, version: Option<ApiVersion>, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let spec = read_spec(body, version).await?;
    let manager = manager(api.daemon.membership())?;
    let mut spec = checked(&manager, spec).await?;
    spec.task.container.registry_auth = registry_auth(&parts.headers);
    if spec.annotations.name.is_empty() {
        let state = manager.state().borrow().clone();
        spec.annotations.name = names::invent(rand::random(), |name| state.service_named(name).is_some());
    }
    let id = object_id(rand::random());
    manager
        .propose(Change::CreateService(CreateService { id: id.clone(), spec }))
        .await?;
    json_answer(StatusCode::CREATED, &json!({"ID": id}))
}

pub async fn update(
    api: &Api,
    reference: &str,
    api_version: Option<ApiVersion>,
    request: Request<Incoming>,
    query: &Query,
) -> Answer {
    let (parts, body) = request.into_parts();
    let spec = read_spec(body, api_version).await?;
    let version = version_index(query, "service")?;
    let rollback = match query.get("rollback") {
        "" | "none" => false,
        "previous" => true,
        other => return Err(bad_request(format!("unrecognized rollback option {other}"))),
    };
    let manager = manager(api.daemon.membership())?;
    let (_, service) = look_up(&manager, |state| find::service(state, reference)).await?;
    let mut spec = checked(&manager, spec).await?;
    spec.task.container.registry_auth = match registry_auth(&parts.headers) {
        Some(given) => Some(given),
        None => kept_auth(&service, query.get("registryAuthFrom"))?,
    };
    manager
        .propose(Change::UpdateService(UpdateService {
            id: service.id.clone(),
            version,
            spec,
            rollback,
        }))
        .await?;
    ok(&json!({"Warnings": null}))
}

pub async fn remove(api: &Api, reference: &str) -> Answer {
    let manager = manager(api.daemon.membership())?;
    let (_, service) = look_up(&manager, |state| find::service(state, reference)).await?;
    manager
        .propose(Change::RemoveService(RemoveService {
            id: service.id.clone(),
        }))
        .await?;
    empty(StatusCode::OK)
}

/// The spec as it is proposed: everything in it is built, and its networks stand in it by id. Apply checks the rest.
async fn checked(manager: &Manager, spec: ServiceSpec) -> Result<model::ServiceSpec, ApiError> {
    spec.check_mode()
        .map_err(|error| bad_request(error.to_string()))?;
    if let Some(feature) = spec.not_built() {
        return Err(not_built(feature));
    }
    let mut spec = spec
        .into_model()
        .map_err(|error| bad_request(error.to_string()))?;
    let reference = &spec.task.container.image;
    if !reference.is_empty() && !image::is_reference(reference) {
        return Err(rpc_error(
            Code::InvalidArgument,
            &format!("ContainerSpec: {reference:?} is not a valid repository/tag"),
        ));
    }
    for target in spec.task.networks.iter_mut().chain(spec.networks.iter_mut()) {
        if matches!(target.target.as_str(), "host" | "bridge" | "none") {
            return Err(not_built(
                "a service on a node's own network (host, bridge, none)",
            ));
        }
        let (_, network) = look_up(manager, |state| find::network(state, &target.target)).await?;
        if network.spec.ingress {
            return Err(rpc_error(
                Code::InvalidArgument,
                &format!(
                    "Service cannot be explicitly attached to the ingress network {:?}",
                    network.spec.annotations.name
                ),
            ));
        }
        target.target.clone_from(&network.id);
    }
    Ok(spec)
}

fn registry_auth(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("X-Registry-Auth")?.to_str().ok()?;
    (!text.is_empty()).then(|| text.to_string())
}

/// Credentials of an update that brings none (moby daemon/cluster/services.go UpdateService).
fn kept_auth(service: &Arc<model::Service>, from: &str) -> Result<Option<String>, ApiError> {
    let kept = match from {
        "" | "spec" => &service.spec,
        "previous-spec" => service
            .previous_spec
            .as_ref()
            .ok_or_else(|| bad_request("service does not have a previous spec"))?,
        _ => return Err(bad_request(format!("invalid registryAuthFrom '{from}'"))),
    };
    Ok(kept.task.container.registry_auth.clone())
}
