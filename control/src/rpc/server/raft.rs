//! Raft between managers.

use openraft::Snapshot;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest as RaftVoteRequest};
use tonic::{Request, Response, Status, Streaming};

use super::{Allowed, Desk};
use crate::raft::types::*;
use crate::rpc::wire::service::raft_server::Raft;
use crate::rpc::wire::*;

/// Larger than any state; bounds what a peer can make this manager hold.
const MAX_SNAPSHOT: usize = 1 << 30;

fn stopped(error: impl std::error::Error) -> Status {
    Status::unavailable(format!("the Raft core does not run: {error}"))
}

impl Desk {
    /// A manager may speak only for itself.
    fn raft_caller<T>(&self, request: &Request<T>, speaks_as: u64) -> Result<(), Status> {
        let names = self.caller(request.extensions(), Allowed::RaftMember)?;
        match self.group.membership().get_node(&speaks_as) {
            Some(member) if member.node_id != names.node_id => {
                Err(Status::permission_denied("the Raft id belongs to another node"))
            }
            _ => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Raft for Desk {
    async fn append(&self, request: Request<AppendRequest>) -> Result<Response<AppendReply>, Status> {
        self.raft_caller(&request, request.get_ref().vote.leader)?;
        let request = request.into_inner();
        let rpc = AppendEntriesRequest {
            vote: request.vote.into(),
            prev_log_id: request.prev.map(Into::into),
            entries: request.entries.into_iter().map(Into::into).collect(),
            leader_commit: request.commit.map(Into::into),
        };
        let response = self.group.raft().append_entries(rpc).await.map_err(stopped)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.group.hearing().heard();
        }
        let outcome = match response {
            AppendEntriesResponse::Success => AppendOutcome::Success(Nothing {}),
            AppendEntriesResponse::PartialSuccess(matching) => AppendOutcome::Partial(Partial {
                matching: matching.map(Into::into),
            }),
            AppendEntriesResponse::Conflict => AppendOutcome::Conflict(Nothing {}),
            AppendEntriesResponse::HigherVote(vote) => AppendOutcome::HigherVote(vote.into()),
        };
        Ok(Response::new(AppendReply {
            outcome: Some(outcome),
        }))
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteReply>, Status> {
        self.raft_caller(&request, request.get_ref().vote.leader)?;
        let request = request.into_inner();
        let rpc = RaftVoteRequest::new(request.vote.into(), request.last_log_id.map(Into::into));
        let response = self.group.raft().vote(rpc).await.map_err(stopped)?;
        if response.vote_granted {
            self.group.hearing().voted();
        }
        Ok(Response::new(VoteReply {
            vote: response.vote.into(),
            granted: response.vote_granted,
            last_log_id: response.last_log_id.map(Into::into),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<SnapshotReply>, Status> {
        let names = self.caller(request.extensions(), Allowed::RaftMember)?;
        let mut chunks = request.into_inner();
        let first = chunks
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("an empty snapshot stream"))?;
        let (Some(vote), Some(meta)) = (first.vote, first.meta) else {
            return Err(Status::invalid_argument("a snapshot stream without head"));
        };
        tracing::info!(from = names.node_id, "receiving a snapshot");
        self.group.hearing().heard();
        let mut data = first.data;
        while let Some(chunk) = chunks.message().await? {
            if data.len() + chunk.data.len() > MAX_SNAPSHOT {
                return Err(Status::resource_exhausted("the snapshot is too large"));
            }
            data.extend_from_slice(&chunk.data);
            self.group.hearing().heard();
        }
        let snapshot = Snapshot {
            meta: meta.into(),
            snapshot: Box::new(std::io::Cursor::new(data)),
        };
        let vote = Vote::from(vote);
        let response = self
            .group
            .raft()
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(stopped)?;
        Ok(Response::new(SnapshotReply {
            vote: response.vote.into(),
        }))
    }

    async fn pre_vote(&self, request: Request<PreVoteRequest>) -> Result<Response<PreVoteReply>, Status> {
        self.caller(request.extensions(), Allowed::RaftMember)?;
        Ok(Response::new(PreVoteReply {
            hears_leader: self.group.hears_leader(),
            last_log_id: self.group.last_log_id().map(Into::into),
        }))
    }
}
