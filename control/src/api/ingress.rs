//! `/skep/ingress/addresses`: addresses of the swarm. Who holds one now is told by the node's own page, `/skep/ingress`.

use hyper::StatusCode;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Api;
use super::answer::{Answer, bad_request, empty, json as json_answer, look_up, manager, ok, read_bytes};
use super::core::find;
use super::core::shape::ingress::{NewAddress, Target, addresses};
use crate::core::ingress::bare_text;
use crate::core::state::node_name;
use crate::daemon::ApiError;
use crate::model::id::object_id;
use crate::model::{Change, CreateIngressAddress, MoveIngressAddress, RemoveIngressAddress};

pub fn list(api: &Api) -> Answer {
    let manager = manager(api.daemon.membership())?;
    let state = manager.state().borrow().clone();
    ok(&addresses(&state))
}

pub async fn create(api: &Api, body: Incoming) -> Answer {
    let new: NewAddress = read(body).await?;
    let manager = manager(api.daemon.membership())?;
    let id = object_id(rand::random());
    let create = CreateIngressAddress {
        id: id.clone(),
        spec: new.into(),
    };
    let applied = manager.propose(Change::CreateIngressAddress(create)).await?;
    json_answer(
        StatusCode::CREATED,
        &json!({"id": id, "address": applied.address}),
    )
}

pub async fn remove(api: &Api, reference: &str) -> Answer {
    let manager = manager(api.daemon.membership())?;
    let (_, address) = look_up(&manager, |state| find::ingress_address(state, reference)).await?;
    let id = address.id.clone();
    let remove = Change::RemoveIngressAddress(RemoveIngressAddress { id });
    manager.propose(remove).await?;
    empty(StatusCode::OK)
}

pub async fn move_to(api: &Api, reference: &str, body: Incoming) -> Answer {
    let target: Target = read(body).await?;
    let manager = manager(api.daemon.membership())?;
    let (_, address) = look_up(&manager, |state| find::ingress_address(state, reference)).await?;
    let (_, node) = look_up(&manager, |state| find::node(state, &target.node)).await?;
    let change = MoveIngressAddress {
        id: address.id.clone(),
        node_id: node.id.clone(),
    };
    manager.propose(Change::MoveIngressAddress(change)).await?;
    ok(&json!({"address": bare_text(&address), "node": node_name(&node)}))
}

async fn read<T: DeserializeOwned>(mut body: Incoming) -> Result<T, ApiError> {
    let bytes = read_bytes(&mut body).await?;
    serde_json::from_slice(&bytes).map_err(|error| bad_request(format!("invalid JSON: {error}")))
}
