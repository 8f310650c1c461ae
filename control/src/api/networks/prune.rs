//! `/networks/prune`.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::{json_of, twins, used_networks};
use crate::api::Api;
use crate::api::answer::{Answer, filters, not_built, ok};
use crate::api::core::filter::Filters;
use crate::api::core::query::{Query, encode};
use crate::api::core::twin::Twins;
use crate::api::pass::{Call, pass_with, stream};
use crate::daemon::{ApiError, Membership};
use crate::model::{Change, RemoveNetwork};

/// Prunes the Engine's networks one by one, so that twins nobody uses at the moment stay, and on a manager the
/// overlays that nothing uses.
pub async fn prune(api: &Api, call: Call, query: &Query) -> Answer {
    let filters = filters(query, &["label", "label!", "until"])?;
    let known = twins(api.daemon.as_ref());
    let mut deleted: Vec<Value> = Vec::new();
    if known.is_empty() {
        let response = pass_with(api, call, Vec::new()).await?;
        if response.status() != StatusCode::OK {
            return Ok(stream(response));
        }
        let answer: Value = json_of(response.into_body()).await?;
        deleted.extend(
            answer["NetworksDeleted"]
                .as_array()
                .into_iter()
                .flatten()
                .cloned(),
        );
    } else if filters.has("until") {
        return Err(not_built(
            "pruning networks by age on a node with overlay networks",
        ));
    } else {
        deleted.extend(prune_engine(api, &known, &filters).await?);
    }
    if let (Membership::Manager(_, manager), false) = (api.daemon.membership(), filters.has("until")) {
        let used = used_networks(api);
        let unused = known
            .overlays()
            .filter(|overlay| !overlay.ingress && !used(&overlay.id));
        for overlay in unused.filter(|overlay| prunable(&filters, &overlay.labels)) {
            let id = overlay.id.clone();
            match manager.propose(Change::RemoveNetwork(RemoveNetwork { id })).await {
                Ok(_) => deleted.push(Value::String(overlay.name.clone())),
                Err(error) => tracing::debug!(%error, network = overlay.name, "not pruned"),
            }
        }
    }
    ok(&json!({"NetworksDeleted": deleted}))
}

fn prunable(filters: &Filters, labels: &BTreeMap<String, String>) -> bool {
    filters.labels("label", labels) && !(filters.has("label!") && filters.labels("label!", labels))
}

async fn prune_engine(api: &Api, known: &Twins, filters: &Filters) -> Result<Vec<Value>, ApiError> {
    let path = format!(
        "/networks?filters={}",
        encode(r#"{"dangling":["true"],"type":["custom"]}"#)
    );
    let (_, networks) = api.engine.get(&path).await?;
    let mut deleted = Vec::new();
    for network in networks.as_array().into_iter().flatten() {
        let id = network["Id"].as_str().unwrap_or("");
        let labels: BTreeMap<String, String> =
            serde_json::from_value(network["Labels"].clone()).unwrap_or_default();
        if known.swarm_id(id).is_some() || !prunable(filters, &labels) {
            continue;
        }
        let (status, _) = api
            .engine
            .ask(hyper::Method::DELETE, &format!("/networks/{id}"), None)
            .await?;
        if status.is_success() {
            deleted.push(network["Name"].clone());
        }
    }
    Ok(deleted)
}
