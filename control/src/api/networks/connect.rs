//! `/networks/{id}/connect` and `disconnect` for overlays: the place of the container is the swarm's to give.

use hyper::StatusCode;
use hyper::body::Incoming;
use serde_json::Value;

use super::{surely, take_body, twins};
use crate::api::answer::{Answer, json as json_answer, parse_json};
use crate::api::core::container::{self, Place};
use crate::api::core::query::encode;
use crate::api::pass::{Call, pass_with, stream};
use crate::api::{Api, containers};
use crate::daemon::ApiError;

/// Connects a container to an overlay as an attachment of the swarm.
pub async fn connect(api: &Api, reference: &str, call: Call) -> Answer {
    let (mut call, bytes) = take_body(call).await?;
    let mut body: Value = parse_json(&bytes)?;
    let Some(target) = containers::overlay_of(api, reference).await? else {
        return Ok(stream(pass_with(api, call, bytes.to_vec()).await?));
    };
    let name = body["Container"].as_str().unwrap_or("").to_string();
    let (status, container) = api
        .engine
        .get(&format!("/containers/{}/json", encode(&name)))
        .await?;
    if status != StatusCode::OK {
        return json_answer(status, &container);
    }
    let container_id = container["Id"].as_str().unwrap_or("").to_string();
    let mut wish = container::wish(&target, &body["EndpointConfig"]);
    let own = container["Name"]
        .as_str()
        .unwrap_or("")
        .trim_start_matches('/')
        .to_string();
    wish.aliases.retain(|alias| *alias != own);
    let Some(place) = containers::attach(api, wish, &[own]).await? else {
        return Ok(stream(pass_with(api, call, bytes.to_vec()).await?));
    };
    container::set_address(&mut body["EndpointConfig"], &place.address);
    call.path = format!("/networks/{}/connect", place.engine_id);
    let response = pass_with(api, call, body.to_string().into_bytes()).await;
    finish(api, response, &place, &container_id).await
}

async fn finish(
    api: &Api,
    response: Result<hyper::Response<Incoming>, ApiError>,
    place: &Place,
    container_id: &str,
) -> Answer {
    match response {
        Ok(response) if response.status().is_success() => {
            api.daemon.attached(&place.attachment_id, container_id).await?;
            Ok(stream(response))
        }
        other => {
            containers::give_back(api, std::slice::from_ref(place)).await;
            other.map(stream)
        }
    }
}

pub async fn disconnect(api: &Api, reference: &str, call: Call) -> Answer {
    let (mut call, bytes) = take_body(call).await?;
    let known = twins(api.daemon.as_ref());
    let Some((overlay, engine_id)) = surely(&known, reference)
        .or_else(|| known.by_prefix(reference).next())
        .and_then(|overlay| Some((overlay, known.engine_id(&overlay.id)?)))
    else {
        return Ok(stream(pass_with(api, call, bytes.to_vec()).await?));
    };
    let body: Value = parse_json(&bytes)?;
    let name = body["Container"].as_str().unwrap_or("");
    let id = containers::full_id(api, name).await?;
    call.path = format!("/networks/{engine_id}/disconnect");
    let response = pass_with(api, call, bytes.to_vec()).await?;
    if response.status().is_success()
        && let Some(id) = id
    {
        containers::detach(api, &id, Some(&overlay.id)).await;
    }
    Ok(stream(response))
}
