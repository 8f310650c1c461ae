//! Plain containers on attachable networks: an address through Raft, and the network on this node.

use std::time::Duration;

use skep_control::daemon::{ApiError, Grant};
use skep_control::model::id::object_id;
use skep_control::model::{Change, CreateAttachment, ItemKind, NetworkItem, UpdateAttachment};

use super::errors::{client, control, error};
use crate::member::View;
use crate::reconciler::chain;

/// How long the assignments may take to bring what was granted.
const FOLLOW: Duration = Duration::from_secs(10);

pub async fn attach(view: &View, network: &str, names: Vec<String>, wished: &str) -> Result<Grant, ApiError> {
    let request = CreateAttachment {
        id: object_id(rand::random()),
        node_id: view.node_id.clone(),
        network: network.to_string(),
        names,
        address: wished.to_string(),
    };
    let id = request.id.clone();
    let applied = match view.manager() {
        Some(manager) => manager
            .propose(Change::CreateAttachment(request))
            .await
            .map_err(|e| control(&e))?,
        None => view
            .client
            .create_attachment(request)
            .await
            .map_err(|e| client(&e))?,
    };
    match place(view, &id).await {
        Ok((item, engine_network_id)) => Ok(Grant {
            attachment_id: id,
            address: applied.address,
            network: item,
            engine_network_id,
        }),
        Err(failure) => {
            if let Err(second) = detach(view, &id).await {
                tracing::warn!(error = %second, "give a reservation back");
            }
            Err(failure)
        }
    }
}

/// Waits until this node knows the reservation, then makes the network exist.
async fn place(view: &View, id: &str) -> Result<(NetworkItem, String), ApiError> {
    let mut desired = view.desired.clone();
    let key = format!("attachment/{id}");
    let known = async {
        desired
            .wait_for(|d| d.items.contains_key(&key))
            .await
            .ok()
            .map(|d| d.clone())
    };
    let known = tokio::time::timeout(FOLLOW, known).await.ok().flatten();
    let desired = known.ok_or_else(|| {
        error(
            503,
            "the managers did not tell this node of the new address in time",
        )
    })?;
    let attachment = match desired.items.get(&key).and_then(|item| item.kind.as_ref()) {
        Some(ItemKind::Attachment(attachment)) => attachment,
        _ => return Err(error(500, "the reservation is not an attachment")),
    };
    let item = desired.network(&attachment.network.network_id).ok_or_else(|| {
        error(
            500,
            format!("network {} not found", attachment.network.network_id),
        )
    })?;
    let network = view.network.borrow().clone();
    let network = network.ok_or_else(|| {
        let why = view.network_error.borrow().clone();
        error(503, format!("the network of this node is not up: {why}"))
    })?;
    let mut applied = network.applied();
    if tokio::time::timeout(FOLLOW, applied.wait_for(|&at| at >= desired.index))
        .await
        .is_err()
    {
        return Err(error(503, "the data plane of this node does not follow"));
    }
    let engine_id = network
        .ensure_twin(item)
        .await
        .map_err(|e| error(500, chain(&e)))?;
    Ok((item.clone(), engine_id))
}

pub async fn attached(view: &View, id: &str, container_id: &str) -> Result<(), ApiError> {
    update(view, id, Some(container_id.to_string())).await
}

pub async fn detach(view: &View, id: &str) -> Result<(), ApiError> {
    update(view, id, None).await
}

/// Without a container the reservation goes.
async fn update(view: &View, id: &str, container_id: Option<String>) -> Result<(), ApiError> {
    let request = UpdateAttachment {
        id: id.to_string(),
        node_id: view.node_id.clone(),
        remove: container_id.is_none(),
        container_id,
    };
    match view.manager() {
        Some(manager) => {
            manager
                .propose(Change::UpdateAttachment(request))
                .await
                .map_err(|e| control(&e))?;
        }
        None => {
            view.client
                .update_attachment(request)
                .await
                .map_err(|e| client(&e))?;
        }
    }
    Ok(())
}
