//! Gives back the addresses of plain containers that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use skep_control::model::{AttachmentItem, ItemKind, UpdateAttachment};
use skep_control::rpc::client::NodeClient;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::core::desired::Desired;
use crate::io::docker::{Engine, EngineError};
use crate::reconciler::chain;

/// All attachments are compared with all containers this often; events make it quicker.
const SWEEP: Duration = Duration::from_secs(30);
/// A reservation that became no container after this time is given back.
const RESERVATION: Duration = Duration::from_secs(120);

pub async fn run(engine: Engine, client: Arc<NodeClient>, desired: watch::Receiver<Desired>) {
    let mut empty_since = BTreeMap::new();
    loop {
        if let Err(error) = sweep(&engine, &client, &desired, &mut empty_since).await {
            tracing::debug!(error = %chain(&error), "look for containers of attachments");
        }
        wait(&engine).await;
    }
}

/// Until a container is removed, or it is time anyway.
async fn wait(engine: &Engine) {
    let destroyed = async {
        let Ok(events) = engine.events() else {
            return std::future::pending().await;
        };
        let mut events = std::pin::pin!(events);
        while let Some(Ok(event)) = events.next().await {
            if event.action == "destroy" && event.task_id.is_empty() {
                return;
            }
        }
        std::future::pending().await
    };
    // Elapsing is the ordinary case.
    let _elapsed = tokio::time::timeout(SWEEP, destroyed).await.is_err();
}

async fn sweep(
    engine: &Engine,
    client: &NodeClient,
    desired: &watch::Receiver<Desired>,
    empty_since: &mut BTreeMap<String, Instant>,
) -> Result<(), EngineError> {
    let desired = desired.borrow().clone();
    let attachments = desired.items.values().filter_map(|item| match &item.kind {
        Some(ItemKind::Attachment(attachment)) => Some(attachment),
        _ => None,
    });
    let attachments: Vec<&AttachmentItem> = attachments.collect();
    empty_since.retain(|id, _| attachments.iter().any(|a| &a.id == id));
    if attachments.is_empty() || !desired.complete {
        return Ok(());
    }
    let present: BTreeSet<String> = engine.container_ids(None).await?.into_iter().collect();
    for attachment in attachments {
        let gone = if attachment.container_id.is_empty() {
            let since = empty_since
                .entry(attachment.id.clone())
                .or_insert_with(Instant::now);
            since.elapsed() > RESERVATION
        } else {
            !present.contains(&attachment.container_id)
        };
        if gone {
            give_back(client, attachment, &desired.node_id).await;
        }
    }
    Ok(())
}

/// A failure is tried again with the next sweep.
async fn give_back(client: &NodeClient, attachment: &AttachmentItem, node_id: &str) {
    let request = UpdateAttachment {
        id: attachment.id.clone(),
        node_id: node_id.to_string(),
        container_id: None,
        remove: true,
    };
    match client.update_attachment(request).await {
        Ok(_) => tracing::info!(attachment = %attachment.id, "the address of a removed container is free"),
        Err(error) => tracing::warn!(error = %chain(&error), "give an address back"),
    }
}
