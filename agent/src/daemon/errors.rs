//! The API's statuses and Swarm's texts for what went wrong below.

use skep_control::daemon::ApiError;
use skep_control::manager::ControlError;
use skep_control::model::{Code, Refused};
use skep_control::rpc::client::ClientError;

pub fn error(status: u16, message: impl Into<String>) -> ApiError {
    ApiError {
        status,
        message: message.into(),
    }
}

/// Texts: moby daemon/cluster/errors.go.
pub fn not_in_a_swarm() -> ApiError {
    error(503, "This node is not part of a swarm")
}

pub fn already_in_a_swarm() -> ApiError {
    let text = "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.";
    error(503, text)
}

pub fn join_timeout() -> ApiError {
    let text = "Timeout was reached before node joined. The attempt to join the swarm will continue in the background. \
                Use the \"docker info\" command to see the current swarm status of your node.";
    error(503, text)
}

/// moby daemon/server/httpstatus: gRPC code to HTTP status, text with gRPC's prefix.
pub fn refused(refused: &Refused) -> ApiError {
    let code = Code::try_from(refused.code).unwrap_or(Code::Unknown);
    let status = match code {
        Code::InvalidArgument | Code::FailedPrecondition => 400,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists => 409,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unknown => 500,
    };
    error(
        status,
        format!("rpc error: code = {code:?} desc = {}", refused.message),
    )
}

pub fn client(failure: &ClientError) -> ApiError {
    match failure {
        ClientError::Refused(reason) => refused(reason),
        other => error(503, crate::reconciler::chain(other)),
    }
}

pub fn control(failure: &ControlError) -> ApiError {
    match failure {
        ControlError::Refused(reason) => refused(reason),
        other => error(500, format!("rpc error: code = Unknown desc = {other}")),
    }
}
