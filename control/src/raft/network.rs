//! RPCs to the other members: openraft's network over node RPC.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::stream;
use openraft::error::{
    Fatal, InstallSnapshotError, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError,
    Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::record::*;
use super::types::*;
use crate::rpc::channel::{Dialer, within};
use crate::rpc::wire::service::control_client::ControlClient;
use crate::rpc::wire::service::logs_client::LogsClient;
use crate::rpc::wire::service::raft_client::RaftClient;
use crate::rpc::wire::{self, AppendOutcome, MAX_MESSAGE};

/// Bytes of a snapshot in one message.
const CHUNK: usize = 1 << 20;
/// How long a member that cannot be reached is left alone.
const BACKOFF: Duration = Duration::from_millis(200);

/// Channels to the members, and when each last answered.
pub struct Peers {
    dialer: Dialer,
    channels: Mutex<BTreeMap<(String, String), Channel>>,
    answered: Mutex<BTreeMap<u64, Instant>>,
    /// Of each member the last append it accepted: the term, and when it was sent.
    accepted: Mutex<BTreeMap<u64, (u64, Instant)>>,
}

impl Peers {
    pub fn new(dialer: Dialer) -> Peers {
        Peers {
            dialer,
            channels: Mutex::new(BTreeMap::new()),
            answered: Mutex::new(BTreeMap::new()),
            accepted: Mutex::new(BTreeMap::new()),
        }
    }

    /// The channel to a member, shared by all users. Status `InvalidArgument` for an address that is none.
    pub fn channel(&self, member: &Member) -> Result<Channel, Status> {
        let key = (member.node_id.clone(), member.address.clone());
        let mut channels = lock(&self.channels);
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let channel = self
            .dialer
            .channel(&member.address, &member.node_id)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        channels.insert(key, channel.clone());
        Ok(channel)
    }

    pub fn raft(&self, member: &Member) -> Result<RaftClient<Channel>, Status> {
        let client = RaftClient::new(self.channel(member)?);
        Ok(client
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE))
    }

    pub fn control(&self, member: &Member) -> Result<ControlClient<Channel>, Status> {
        let client = ControlClient::new(self.channel(member)?);
        Ok(client
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE))
    }

    pub fn logs(&self, member: &Member) -> Result<LogsClient<Channel>, Status> {
        Ok(LogsClient::new(self.channel(member)?))
    }

    /// Members that answered a Raft RPC of ours not longer ago than `within`.
    pub fn answering(&self, within: Duration) -> Vec<u64> {
        let now = Instant::now();
        lock(&self.answered)
            .iter()
            .filter(|(_, at)| now.duration_since(**at) <= within)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Members that took an append of this term which was sent not longer ago than `within`.
    pub fn accepting(&self, term: u64, within: Duration) -> Vec<u64> {
        let now = Instant::now();
        lock(&self.accepted)
            .iter()
            .filter(|(_, (of, sent))| *of == term && now.duration_since(*sent) <= within)
            .map(|(id, _)| *id)
            .collect()
    }

    fn note_answer(&self, raft_id: u64) {
        lock(&self.answered).insert(raft_id, Instant::now());
    }
}

/// A panicking holder leaves the maps whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// openraft's factory and connection.
#[derive(Clone)]
pub struct Network {
    peers: std::sync::Arc<Peers>,
}

pub struct Connection {
    peers: std::sync::Arc<Peers>,
    target: u64,
    member: Member,
}

impl Network {
    pub fn new(peers: std::sync::Arc<Peers>) -> Network {
        Network { peers }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &Member) -> Connection {
        Connection {
            peers: self.peers.clone(),
            target,
            member: node.clone(),
        }
    }
}

type RpcError<E = RaftError<u64>> = RPCError<u64, Member, E>;

/// A member that does not serve us is left alone for a while: a connection it refuses must not be tried in a tight loop.
/// One that was only slow is asked again at once.
fn rpc_error<E: std::error::Error>(status: &Status) -> RpcError<E> {
    match status.code() {
        Code::DeadlineExceeded => RPCError::Network(NetworkError::new(status)),
        _ => RPCError::Unreachable(Unreachable::new(status)),
    }
}

/// Awaits an answer no longer than the deadline, whatever the other end does with it.
async fn timely<T>(
    deadline: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(deadline, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("the member did not answer in time")),
    }
}

impl RaftNetwork<TypeConfig> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        let request = wire::AppendRequest {
            vote: rpc.vote.into(),
            prev: rpc.prev_log_id.map(Into::into),
            entries: rpc.entries.iter().map(Into::into).collect(),
            commit: rpc.leader_commit.map(Into::into),
        };
        let (term, sent) = (rpc.vote.leader_id().term, Instant::now());
        let deadline = option.hard_ttl();
        let mut client = self.peers.raft(&self.member).map_err(|s| rpc_error(&s))?;
        let reply = timely(deadline, client.append(within(request, deadline)))
            .await
            .map_err(|s| rpc_error(&s))?;
        self.peers.note_answer(self.target);
        if !matches!(reply.outcome, Some(AppendOutcome::HigherVote(_)) | None) {
            lock(&self.peers.accepted).insert(self.target, (term, sent));
        }
        match reply.outcome {
            Some(AppendOutcome::Success(_)) => Ok(AppendEntriesResponse::Success),
            Some(AppendOutcome::Partial(partial)) => Ok(AppendEntriesResponse::PartialSuccess(
                partial.matching.map(Into::into),
            )),
            Some(AppendOutcome::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
            Some(AppendOutcome::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(vote.into())),
            None => Err(rpc_error(&Status::internal("an append reply without outcome"))),
        }
    }

    async fn install_snapshot(
        &mut self,
        _rpc: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RpcError<RaftError<u64, InstallSnapshotError>>> {
        // Never called: full_snapshot below sends snapshots as one stream.
        Err(rpc_error(&Status::unimplemented("snapshots are sent whole")))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let meta = SnapshotMetaRecord::from(&snapshot.meta);
        let data = snapshot.snapshot.into_inner();
        let first = wire::SnapshotChunk {
            vote: Some(vote.into()),
            meta: Some(meta),
            data: Vec::new(),
        };
        let chunks: Vec<wire::SnapshotChunk> = std::iter::once(first)
            .chain(data.chunks(CHUNK).map(|part| wire::SnapshotChunk {
                data: part.to_vec(),
                ..Default::default()
            }))
            .collect();
        let failed = |status: &Status| match rpc_error::<Fatal<u64>>(status) {
            RPCError::Unreachable(error) => StreamingError::Unreachable(error),
            _ => StreamingError::Network(NetworkError::new(status)),
        };
        // A snapshot takes longer than an append; the option's deadline is one chunk's.
        let deadline = option.hard_ttl() * (chunks.len() as u32 + 1);
        let mut client = self.peers.raft(&self.member).map_err(|s| failed(&s))?;
        let call = timely(
            deadline,
            client.install_snapshot(within(stream::iter(chunks), deadline)),
        );
        let reply = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            reply = call => reply.map_err(|s| failed(&s))?,
        };
        self.peers.note_answer(self.target);
        Ok(SnapshotResponse::new(reply.vote.into()))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError> {
        let request = wire::VoteRequest {
            vote: rpc.vote.into(),
            last_log_id: rpc.last_log_id.map(Into::into),
        };
        let deadline = option.hard_ttl();
        let mut client = self.peers.raft(&self.member).map_err(|s| rpc_error(&s))?;
        let reply = timely(deadline, client.vote(within(request, deadline)))
            .await
            .map_err(|s| rpc_error(&s))?;
        self.peers.note_answer(self.target);
        let last_log_id = reply.last_log_id.map(Into::into);
        Ok(VoteResponse::new(
            Vote::from(reply.vote),
            last_log_id,
            reply.granted,
        ))
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}
