//! A joining node's first calls: the root certificate from whoever answers, checked against the token before the token
//! is sent, then a certificate over TLS pinned to that root.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status};

use super::channel::{ANY_MANAGER, Dialer, Trust, within};
use super::gate::Gate;
use super::tls::{self, TlsError};
use super::wire::service::ca_client::CaClient;
use super::wire::{IssueReply, IssueRequest, RootRequest};
use crate::ca::token::{self, hex};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum JoinCallError {
    /// Swarm's text.
    #[error("invalid join token")]
    InvalidToken,
    #[error("remote CA does not match fingerprint. Expected: {expected}")]
    Fingerprint { expected: String },
    #[error("the manager could not be reached: {last}")]
    Unreachable { last: String },
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

fn dialer(config: rustls::ClientConfig) -> Dialer {
    Dialer::new(Trust::Pinned(Arc::new(config)), Arc::new(Gate::default()))
}

fn unreachable(address: &str, why: &str) -> JoinCallError {
    JoinCallError::Unreachable {
        last: format!("{address}: {why}"),
    }
}

/// Fetches the root certificate (PEM) from `host:port` and checks that it is the one the token names.
pub async fn fetch_root(address: &str, join_token: &str) -> Result<String, JoinCallError> {
    let token = token::parse(join_token).map_err(|_| JoinCallError::InvalidToken)?;
    let channel = dialer(tls::unverified()?)
        .channel(address, ANY_MANAGER)
        .map_err(|error| unreachable(address, &error.to_string()))?;
    let mut client = CaClient::new(channel);
    let call = client.get_root(within(RootRequest {}, CALL_TIMEOUT));
    let root_pem = match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(reply)) => reply.into_inner().root_pem,
        Ok(Err(status)) => return Err(unreachable(address, &described(&status))),
        Err(_) => return Err(unreachable(address, "it did not answer in time")),
    };
    if token::root_digest(&root_pem) != token.root_digest {
        return Err(JoinCallError::Fingerprint {
            expected: hex(&token.root_digest),
        });
    }
    Ok(root_pem)
}

/// Presents the token and a request to a manager whose certificate that root signed.
pub async fn issue(
    address: &str,
    root_pem: &str,
    request: IssueRequest,
) -> Result<IssueReply, JoinCallError> {
    let channel = dialer(tls::pinned(root_pem)?)
        .channel(address, ANY_MANAGER)
        .map_err(|error| unreachable(address, &error.to_string()))?;
    let mut client = CaClient::new(channel);
    let call = client.issue(within(request, CALL_TIMEOUT));
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => match status.code() {
            Code::InvalidArgument | Code::FailedPrecondition => {
                Err(JoinCallError::Refused(status.message().to_string()))
            }
            _ => Err(unreachable(address, &described(&status))),
        },
        Err(_) => Err(unreachable(address, "it did not answer in time")),
    }
}

/// tonic's own message for a failed dial is "tcp connect error": the causes say more.
fn described(status: &Status) -> String {
    let mut text = status.message().to_string();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
