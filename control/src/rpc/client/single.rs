//! Single calls of a node (worker or manager) to its managers.

use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::ca::Identity;
use crate::ca::authority::{AuthorityError, make_request};
use crate::model::*;
use crate::rpc::channel::{ANY_MANAGER, Dialer, Trust, within};
use crate::rpc::gate::Gate;
use crate::rpc::wire::service::ca_client::CaClient;
use crate::rpc::wire::service::control_client::ControlClient;
use crate::rpc::wire::service::logs_client::LogsClient;
use crate::rpc::wire::service::membership_client::MembershipClient;
use crate::rpc::wire::{JoinRequest, LeaveRequest, LogOrder, LogPiece, MembershipReply, RenewRequest};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A membership change waits for a new member to catch up.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(40);
const RETRY: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no manager answered: {last}")]
    Unreachable { last: String },
    /// The leader's apply refused it.
    #[error("{}", .0.message)]
    Refused(Refused),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("the manager answered with what is no certificate of this node")]
    Certificate,
}

/// Calls any manager that answers.
pub struct NodeClient {
    identity: watch::Receiver<Identity>,
    managers: watch::Receiver<Vec<String>>,
    dialer: Dialer,
}

impl NodeClient {
    pub fn new(identity: watch::Receiver<Identity>, managers: watch::Receiver<Vec<String>>) -> NodeClient {
        NodeClient::through(identity, managers, Arc::new(Gate::default()))
    }

    /// Through a gate that can be shut.
    pub fn through(
        identity: watch::Receiver<Identity>,
        managers: watch::Receiver<Vec<String>>,
        gate: Arc<Gate>,
    ) -> NodeClient {
        let dialer = Dialer::new(Trust::Member(identity.clone()), gate);
        NodeClient {
            identity,
            managers,
            dialer,
        }
    }

    /// Calls the managers in random order until one serves. One that does not know this node yet, does not lead or is
    /// not there is passed over (`None` or such a status); other failures end the search, for the call may have worked.
    async fn call<T, F>(
        &self,
        deadline: Duration,
        call: impl Fn(Channel, Duration) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Option<T>, Status>>,
    {
        let end = Instant::now() + deadline;
        let mut last = "no manager is known".to_string();
        loop {
            let mut managers = self.managers.borrow().clone();
            managers.shuffle(&mut rand::rng());
            for address in managers {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(ClientError::Unreachable { last });
                }
                let channel = match self.dialer.channel(&address, ANY_MANAGER) {
                    Ok(channel) => channel,
                    Err(error) => {
                        last = error.to_string();
                        continue;
                    }
                };
                match tokio::time::timeout(left, call(channel, left)).await {
                    Ok(Ok(Some(answer))) => return Ok(answer),
                    Ok(Ok(None)) => last = format!("{address} does not lead"),
                    Ok(Err(status))
                        if matches!(status.code(), Code::Unavailable | Code::PermissionDenied) =>
                    {
                        last = format!("{address}: {}", status.message());
                    }
                    Ok(Err(status)) => {
                        last = format!("{address}: {}", status.message());
                        return Err(ClientError::Unreachable { last });
                    }
                    Err(_) => last = format!("{address} did not answer in time"),
                }
            }
            if Instant::now() + RETRY >= end {
                return Err(ClientError::Unreachable { last });
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Reserves an address for a plain container; `node_id` is replaced by the certificate's.
    pub async fn create_attachment(&self, request: CreateAttachment) -> Result<Applied, ClientError> {
        let applied = self.call(CALL_TIMEOUT, |channel, left| {
            let request = within(request.clone(), left);
            async move {
                Ok(ControlClient::new(channel)
                    .create_attachment(request)
                    .await?
                    .into_inner()
                    .applied)
            }
        });
        accepted(applied.await?)
    }

    /// Tells what became of a reservation, or gives it back.
    pub async fn update_attachment(&self, request: UpdateAttachment) -> Result<Applied, ClientError> {
        let applied = self.call(CALL_TIMEOUT, |channel, left| {
            let request = within(request.clone(), left);
            async move {
                Ok(ControlClient::new(channel)
                    .update_attachment(request)
                    .await?
                    .into_inner()
                    .applied)
            }
        });
        accepted(applied.await?)
    }

    /// A new certificate for the same node, authorised by the old one. The caller stores it and publishes it.
    pub async fn renew(&self) -> Result<Identity, ClientError> {
        let (key_pem, csr_pem) = make_request()?;
        let request = RenewRequest { csr_pem };
        let reply = self
            .call(CALL_TIMEOUT, |channel, left| {
                let request = within(request.clone(), left);
                async move { Ok(Some(CaClient::new(channel).renew(request).await?.into_inner())) }
            })
            .await?;
        let identity =
            Identity::from_pem(reply.cert_pem, key_pem, reply.root_pem).ok_or(ClientError::Certificate)?;
        if identity.node_id != self.identity.borrow().node_id {
            return Err(ClientError::Certificate);
        }
        Ok(identity)
    }

    /// Sends a log to the manager that ordered it, until the log ends or the manager wants no more. Pieces wait while
    /// its reader is slow.
    pub async fn publish_log(
        &self,
        order: &LogOrder,
        pieces: mpsc::Receiver<LogPiece>,
    ) -> Result<(), ClientError> {
        let unreachable = |last: String| ClientError::Unreachable { last };
        let channel = self
            .dialer
            .channel(&order.address, &order.manager_id)
            .map_err(|error| unreachable(error.to_string()))?;
        let mut client = LogsClient::new(channel);
        let publishing = client.publish(ReceiverStream::new(pieces));
        let mut answer = tokio::time::timeout(CALL_TIMEOUT, publishing)
            .await
            .map_err(|_| unreachable(format!("{} did not answer in time", order.address)))?
            .map_err(|status| unreachable(format!("{}: {}", order.address, status.message())))?
            .into_inner();
        // The manager says nothing: its stream ends when it has what it wanted.
        while answer
            .message()
            .await
            .map_err(|status| unreachable(format!("{}: {}", order.address, status.message())))?
            .is_some()
        {}
        Ok(())
    }

    /// Tells the managers that this node leaves: it goes down, and a manager is taken out of Raft.
    pub async fn leave(&self) -> Result<(), ClientError> {
        let reply = self.call(CALL_TIMEOUT, |channel, left| {
            let request = within(LeaveRequest {}, left);
            async move {
                Ok(done(
                    MembershipClient::new(channel).leave(request).await?.into_inner(),
                ))
            }
        });
        granted(reply.await?)
    }

    /// Asks to be made a Raft member. `promoted_at`: the address of a manager that was a worker before, else empty.
    pub(crate) async fn join(&self, promoted_at: &str) -> Result<(), ClientError> {
        let reply = self.call(MEMBERSHIP_TIMEOUT, |channel, left| {
            let manager_address = promoted_at.to_string();
            let request = within(JoinRequest { manager_address }, left);
            async move {
                Ok(done(
                    MembershipClient::new(channel).join(request).await?.into_inner(),
                ))
            }
        });
        granted(reply.await?)
    }
}

fn done(reply: MembershipReply) -> Option<MembershipReply> {
    reply.done.then_some(reply)
}

fn granted(reply: MembershipReply) -> Result<(), ClientError> {
    match reply.refused {
        Some(refused) => Err(ClientError::Refused(refused)),
        None => Ok(()),
    }
}

fn accepted(applied: Applied) -> Result<Applied, ClientError> {
    match applied.refused {
        Some(refused) => Err(ClientError::Refused(refused)),
        None => Ok(applied),
    }
}
