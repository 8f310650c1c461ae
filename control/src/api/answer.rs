//! Bodies, answers and errors as the Engine API sends them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::core::case;
use super::core::filter::Filters;
use super::core::find::FindError;
use super::core::query::Query;
use super::io::engine::EngineError;
use crate::core::state::ClusterState;
use crate::daemon::{ApiError, Membership};
use crate::manager::{ControlError, Manager};
use crate::model::Code;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
pub type Answer = Result<Response<Body>, ApiError>;

/// A JSON body that is read whole may have this many bytes; streams (build contexts, archives) have no limit.
const JSON_LIMIT: usize = 16 << 20;

pub fn empty_body() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub fn fail(status: StatusCode, message: impl Into<String>) -> ApiError {
    ApiError {
        status: status.as_u16(),
        message: message.into(),
    }
}

pub fn bad_request(message: impl Into<String>) -> ApiError {
    fail(StatusCode::BAD_REQUEST, message)
}

/// Swarm has it, Skep does not build it yet.
pub fn not_built(feature: &str) -> ApiError {
    fail(
        StatusCode::NOT_IMPLEMENTED,
        format!("{feature} is not supported by Skep yet"),
    )
}

/// An error as the control API of Swarm words it: scripts match the prefix.
pub fn rpc_error(code: Code, message: &str) -> ApiError {
    let name = match code {
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Unimplemented => "Unimplemented",
        Code::Unavailable => "Unavailable",
    };
    // moby daemon/server/httpstatus/status.go
    let status = match code {
        Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        Code::InvalidArgument | Code::FailedPrecondition => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    fail(status, format!("rpc error: code = {name} desc = {message}"))
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> ApiError {
        match error {
            ControlError::Refused(refused) => {
                let code = Code::try_from(refused.code).unwrap_or(Code::Unknown);
                rpc_error(code, &refused.message)
            }
            ControlError::NoLeader => rpc_error(Code::Unknown, &error.to_string()),
            ControlError::Timeout(_) => fail(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("rpc error: code = DeadlineExceeded desc = {error}"),
            ),
            ControlError::Stopped => rpc_error(Code::Unavailable, &error.to_string()),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> ApiError {
        fail(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

/// moby daemon/cluster/errors.go errSwarmLocked.
pub const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.";

/// The manager of this node, or the reason why swarm paths are not answered here (moby daemon/cluster/cluster.go
/// errNoManager).
pub fn manager(membership: Membership) -> Result<Arc<Manager>, ApiError> {
    let reason = match membership {
        Membership::Manager(_, manager) => return Ok(manager),
        Membership::Worker(_) => {
            "Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager."
        }
        Membership::Locked { .. } => return Err(fail(StatusCode::SERVICE_UNAVAILABLE, LOCKED)),
        Membership::Pending { .. } => "Manager is being prepared or has trouble connecting to the cluster.",
        Membership::Inactive => {
            "Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."
        }
    };
    Err(fail(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("This node is not a swarm manager. {reason}"),
    ))
}

impl From<FindError> for ApiError {
    fn from(error: FindError) -> ApiError {
        let status = match error {
            FindError::None { .. } => StatusCode::NOT_FOUND,
            FindError::Ambiguous { .. } => StatusCode::BAD_REQUEST,
        };
        fail(status, error.to_string())
    }
}

/// Looks an object up in the local state; one that is not there is looked for once more after this manager has caught
/// up with the leader: it may have been made through another manager a moment ago.
pub async fn look_up<T>(
    manager: &Manager,
    find: impl Fn(&ClusterState) -> Result<&Arc<T>, FindError>,
) -> Result<(Arc<ClusterState>, Arc<T>), ApiError> {
    let state = manager.state().borrow().clone();
    if let Ok(found) = find(&state).map(Arc::clone) {
        return Ok((state, found));
    }
    manager.barrier().await?;
    let state = manager.state().borrow().clone();
    let found = find(&state).map(Arc::clone)?;
    Ok((state, found))
}

/// The filters of a list call; a key that is not `known` is refused.
pub fn filters(query: &Query, known: &[&str]) -> Result<Filters, ApiError> {
    Filters::parse(query.get("filters"), known).map_err(|error| bad_request(error.to_string()))
}

/// The version index of an update, which moby words with Go's own error text.
pub fn version_index(query: &Query, kind: &str) -> Result<u64, ApiError> {
    let text = query.get("version");
    text.parse().map_err(|_| {
        bad_request(format!(
            "invalid {kind} version '{text}': strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let bytes = serde_json::to_vec(value).map_err(|error| {
        fail(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("encoding the answer: {error}"),
        )
    })?;
    let mut response = Response::new(full_body(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

pub fn ok(value: &impl Serialize) -> Answer {
    json(StatusCode::OK, value)
}

pub fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(empty_body());
    *response.status_mut() = status;
    Ok(response)
}

pub fn error_answer(error: &ApiError) -> Response<Body> {
    let bytes = serde_json::to_vec(&BTreeMap::from([("message", &error.message)])).unwrap_or_default();
    let mut response = Response::new(full_body(bytes));
    *response.status_mut() = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Reads a whole body; more than 16 MiB is refused.
pub async fn read_bytes(body: &mut Incoming) -> Result<Bytes, ApiError> {
    let collected = Limited::new(body, JSON_LIMIT)
        .collect()
        .await
        .map_err(|error| bad_request(format!("reading the request body: {error}")))?;
    Ok(collected.to_bytes())
}

/// Reads a JSON body. As in Go, `null` members count as absent and the case of names does not count.
pub async fn read_json<T: DeserializeOwned>(mut body: Incoming) -> Result<T, ApiError> {
    parse_json(&read_bytes(&mut body).await?)
}

pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    decode(parse_value(bytes)?)
}

/// A JSON body with its names as Docker spells them.
pub fn parse_value(bytes: &[u8]) -> Result<Value, ApiError> {
    let mut value: Value =
        serde_json::from_slice(bytes).map_err(|error| bad_request(format!("invalid JSON: {error}")))?;
    drop_nulls(&mut value);
    case::correct(&mut value);
    Ok(value)
}

pub fn decode<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    serde_json::from_value(value).map_err(|error| bad_request(format!("invalid JSON: {error}")))
}

/// A query value that moby reads by Go's ParseBool; absent is false.
pub fn bool_value(query: &Query, key: &str) -> Result<bool, ApiError> {
    match query.get(key) {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        text => Err(bad_request(format!(
            "invalid value for {key}: {text}: strconv.ParseBool: parsing {text:?}: invalid syntax"
        ))),
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(elements) => elements.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
