//! `/containers`: the Engine's, but a container on an overlay gets its place from the swarm, and what the Engine says
//! of twin networks is put in the swarm's words.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, fail, json as json_answer, look_up, read_bytes};
use super::core::container::{self, Place, Wish};
use super::core::find;
use super::core::query::{Query, encode};
use super::core::version::ApiVersion;
use super::io::engine::read;
use super::networks::twins;
use super::pass::{Call, pass, pass_with, stream};
use crate::daemon::{ApiError, Membership};
use crate::model::ItemKind;

/// From here on the Engine takes several endpoints in one create.
const SEVERAL_ENDPOINTS: ApiVersion = ApiVersion { major: 1, minor: 44 };

pub async fn answer(api: &Api, method: &str, segments: &[&str], call: Call, query: &Query) -> Answer {
    match (method, segments) {
        ("POST", ["containers", "create"]) => create(api, call, query).await,
        ("GET", ["containers", "json"]) => list(api, call, query).await,
        ("GET", ["containers", _, "json"]) => shown(api, call).await,
        ("DELETE", ["containers", id]) => remove(api, id, call).await,
        _ => pass(api, call).await,
    }
}

async fn list(api: &Api, mut call: Call, query: &Query) -> Answer {
    let known = twins(api.daemon.as_ref());
    if query.has("filters") && !known.is_empty() {
        // The Engine judges the keys.
        if let Ok(mut asked) = super::core::filter::Filters::parse_any(query.get("filters")) {
            asked.set_if_there("network", |network| known.engine_id(network));
            let mut query = query.clone();
            query.set("filters", asked.encode());
            call.query = query.encode();
        }
    }
    shown(api, call).await
}

/// One container or a list of them, with twin ids replaced.
async fn shown(api: &Api, call: Call) -> Answer {
    let known = twins(api.daemon.as_ref());
    if known.is_empty() {
        return pass(api, call).await;
    }
    let path = call.path.clone();
    let response = pass_with(api, call, Vec::new()).await?;
    if response.status() != StatusCode::OK {
        return Ok(stream(response));
    }
    let bytes = read(response.into_body(), &path).await?;
    let mut value: Value = serde_json::from_slice(&bytes).map_err(|error| {
        fail(
            StatusCode::BAD_GATEWAY,
            format!("the Docker Engine's answer is not JSON: {error}"),
        )
    })?;
    match &mut value {
        Value::Array(containers) => containers.iter_mut().for_each(|one| known.rewrite_container(one)),
        one => known.rewrite_container(one),
    }
    json_answer(StatusCode::OK, &value)
}

async fn create(api: &Api, mut call: Call, query: &Query) -> Answer {
    let bytes = read_bytes(call.request.body_mut()).await?;
    let Ok(mut body) = serde_json::from_slice::<Value>(&bytes) else {
        // The Engine words what is wrong with it.
        return Ok(stream(pass_with(api, call, bytes.to_vec()).await?));
    };
    if container::redirect_socket(&mut body, &api.daemon.api_socket()) {
        tracing::info!(
            container = query.get("name"),
            "a bind of Docker's socket was replaced by Skep's; label skep.docker-socket=engine keeps the Engine's"
        );
    }
    let names = match query.get("name") {
        "" => Vec::new(),
        name => vec![name.to_string()],
    };
    let mut places = Vec::new();
    for wish in container::wishes(&body) {
        let Some(network) = overlay_of(api, &wish.network).await? else {
            continue;
        };
        match attach(
            api,
            Wish {
                network,
                ..wish.clone()
            },
            &names,
        )
        .await
        {
            Ok(Some(place)) => places.push(Place { wish, ..place }),
            Ok(None) => {}
            Err(error) => {
                give_back(api, &places).await;
                return Err(error);
            }
        }
    }
    let created = create_placed(api, call, body, &places).await;
    if !created
        .as_ref()
        .is_ok_and(|response| response.status() == StatusCode::CREATED)
    {
        give_back(api, &places).await;
    }
    created
}

async fn create_placed(api: &Api, call: Call, mut body: Value, places: &[Place]) -> Answer {
    let mut later = Vec::new();
    if !places.is_empty() {
        let mode = body
            .pointer("/HostConfig/NetworkMode")
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_string();
        container::place(&mut body, places, &api.daemon.resolver());
        if api.engine.range().await?.newest < SEVERAL_ENDPOINTS {
            let mut kept: Vec<&str> = vec![&mode];
            kept.extend(
                places
                    .iter()
                    .filter(|place| place.wish.network == mode)
                    .map(|place| place.name.as_str()),
            );
            later = container::split_endpoints(&mut body, &kept);
        }
    }
    let response = pass_with(api, call, body.to_string().into_bytes()).await?;
    if places.is_empty() || response.status() != StatusCode::CREATED {
        return Ok(stream(response));
    }
    let bytes = read(response.into_body(), "/containers/create").await?;
    let answer: Value = serde_json::from_slice(&bytes).map_err(|error| {
        fail(
            StatusCode::BAD_GATEWAY,
            format!("the Docker Engine's answer is not JSON: {error}"),
        )
    })?;
    let id = answer["Id"].as_str().unwrap_or("");
    if let Err(error) = settle(api, id, places, later).await {
        if let Err(error) = api
            .engine
            .ask(hyper::Method::DELETE, &format!("/containers/{id}?v=1"), None)
            .await
        {
            tracing::warn!(%error, container = id, "removing a container that could not be attached");
        }
        return Err(error);
    }
    json_answer(StatusCode::CREATED, &answer)
}

/// Connects a new container to the networks that an old Engine did not take at once, and tells the swarm whose the
/// places are.
async fn settle(api: &Api, id: &str, places: &[Place], later: Vec<(String, Value)>) -> Result<(), ApiError> {
    for (name, endpoint) in later {
        let network = places
            .iter()
            .find(|place| place.name == name)
            .map_or(name.as_str(), |p| &p.engine_id);
        let path = format!("/networks/{}/connect", encode(network));
        let body = json!({"Container": id, "EndpointConfig": endpoint});
        let (status, bytes) = api.engine.ask(hyper::Method::POST, &path, Some(&body)).await?;
        if !status.is_success() {
            let answer: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            return Err(fail(
                status,
                answer["message"]
                    .as_str()
                    .unwrap_or("connecting the container failed"),
            ));
        }
    }
    for place in places {
        api.daemon.attached(&place.attachment_id, id).await?;
    }
    Ok(())
}

/// The overlay that a reference in a container's body means, as `attach` takes it. On a worker a network that neither
/// the Engine nor this node knows may be one of the swarm's: the answer is then the reference itself.
pub async fn overlay_of(api: &Api, reference: &str) -> Result<Option<String>, ApiError> {
    if container::is_predefined(reference) {
        return Ok(None);
    }
    let known = twins(api.daemon.as_ref());
    if let Some(overlay) = known
        .exact(reference)
        .or_else(|| known.by_engine_prefix(reference))
    {
        return Ok(Some(overlay.id.clone()));
    }
    let membership = api.daemon.membership();
    if matches!(
        membership,
        Membership::Inactive | Membership::Pending { .. } | Membership::Locked { .. }
    ) {
        return Ok(None);
    }
    let (status, _) = api
        .engine
        .get(&format!("/networks/{}", encode(reference)))
        .await?;
    if status == StatusCode::OK {
        return Ok(None);
    }
    match membership {
        Membership::Manager(_, manager) => {
            let found = look_up(&manager, |state| find::network(state, reference)).await;
            Ok(found.ok().map(|(_, network)| network.id.clone()))
        }
        _ => Ok(Some(reference.to_string())),
    }
}

/// Asks the swarm for a place on an overlay. `None`: the swarm has no such network, so the Engine shall say so.
pub async fn attach(api: &Api, wish: Wish, names: &[String]) -> Result<Option<Place>, ApiError> {
    let shown = {
        let known = twins(api.daemon.as_ref());
        let overlay = known.exact(&wish.network);
        let name = overlay.map_or(wish.network.clone(), |overlay| overlay.name.clone());
        if overlay.is_some_and(|overlay| !overlay.attachable) {
            return Err(fail(
                StatusCode::FORBIDDEN,
                format!(
                    "Could not attach to network {name}: rpc error: code = PermissionDenied desc = network {name} not manually attachable"
                ),
            ));
        }
        name
    };
    let mut all = names.to_vec();
    all.extend(
        wish.aliases
            .iter()
            .filter(|alias| !names.contains(alias))
            .cloned(),
    );
    match api.daemon.attach(&wish.network, all, &wish.address).await {
        Ok(grant) => Ok(Some(Place {
            wish,
            attachment_id: grant.attachment_id,
            address: grant.address.split('/').next().unwrap_or_default().to_string(),
            engine_id: grant.engine_network_id,
            name: grant.network.name,
        })),
        Err(error) if error.status == StatusCode::NOT_FOUND.as_u16() => Ok(None),
        Err(error) => Err(ApiError {
            status: error.status,
            message: format!("Could not attach to network {shown}: {}", error.message),
        }),
    }
}

/// Gives places back whose container was not made. What cannot be given back now is found later by the agent.
pub async fn give_back(api: &Api, places: &[Place]) {
    for place in places {
        if let Err(error) = api.daemon.detach(&place.attachment_id).await {
            tracing::warn!(%error, attachment = place.attachment_id, "giving a place on a network back");
        }
    }
}

/// Gives the places of a container back, on one network or on all.
pub async fn detach(api: &Api, container_id: &str, network_id: Option<&str>) {
    for item in api.daemon.items().values() {
        let Some(ItemKind::Attachment(attachment)) = &item.kind else {
            continue;
        };
        let network = &attachment.network.network_id;
        if attachment.container_id != container_id || network_id.is_some_and(|id| id != network) {
            continue;
        }
        if let Err(error) = api.daemon.detach(&attachment.id).await {
            tracing::warn!(%error, attachment = attachment.id, "giving a place on a network back");
        }
    }
}

/// Full id of a container, `None` if the Engine has none by that name.
pub async fn full_id(api: &Api, reference: &str) -> Result<Option<String>, ApiError> {
    let (status, container) = api
        .engine
        .get(&format!("/containers/{}/json", encode(reference)))
        .await?;
    Ok((status == StatusCode::OK)
        .then(|| container["Id"].as_str().map(str::to_string))
        .flatten())
}

async fn remove(api: &Api, reference: &str, call: Call) -> Answer {
    let has_attachments = api
        .daemon
        .items()
        .values()
        .any(|item| matches!(item.kind, Some(ItemKind::Attachment(_))));
    if !has_attachments {
        return pass(api, call).await;
    }
    let id = full_id(api, reference).await?;
    let response = pass(api, call).await?;
    if response.status().is_success()
        && let Some(id) = id
    {
        detach(api, &id, None).await;
    }
    Ok(response)
}
