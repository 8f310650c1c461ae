//! Writes and reads that other managers forward to the leader, and the few writes that nodes may ask for.

use tonic::{Request, Response, Status};

use super::{Allowed, Desk};
use crate::manager::{ControlError, Propose};
use crate::model::*;
use crate::rpc::wire::service::control_server::Control;
use crate::rpc::wire::*;

fn status(error: ControlError) -> Status {
    match error {
        ControlError::Timeout(_) => Status::deadline_exceeded(error.to_string()),
        _ => Status::unavailable(error.to_string()),
    }
}

impl Desk {
    /// Commits a node's own change; a refusal of apply is an answer.
    pub(super) async fn propose_for(&self, change: Change) -> Result<Response<ProposeReply>, Status> {
        let applied = match self.group.propose(change).await {
            Ok(applied) => applied,
            Err(ControlError::Refused(refused)) => Applied {
                refused: Some(refused),
                ..Default::default()
            },
            Err(error) => return Err(status(error)),
        };
        Ok(Response::new(ProposeReply {
            applied: Some(applied),
        }))
    }
}

#[tonic::async_trait]
impl Control for Desk {
    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        self.caller(request.extensions(), Allowed::Manager)?;
        let applied = self
            .group
            .write_here(request.into_inner().command)
            .await
            .map_err(status)?;
        Ok(Response::new(ProposeReply { applied }))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        self.caller(request.extensions(), Allowed::Manager)?;
        let index = self.group.read_index_here().await.map_err(status)?;
        Ok(Response::new(ReadIndexReply { index }))
    }

    async fn health(&self, request: Request<HealthRequest>) -> Result<Response<HealthReply>, Status> {
        self.caller(request.extensions(), Allowed::Manager)?;
        let leads = self.group.leads();
        let reachable = if leads {
            self.group.answering().into_iter().collect()
        } else {
            Vec::new()
        };
        Ok(Response::new(HealthReply { leads, reachable }))
    }

    async fn create_attachment(
        &self,
        request: Request<CreateAttachment>,
    ) -> Result<Response<ProposeReply>, Status> {
        let names = self.caller(request.extensions(), Allowed::Node)?;
        let mut create = request.into_inner();
        create.node_id = names.node_id;
        self.propose_for(Change::CreateAttachment(create)).await
    }

    async fn update_attachment(
        &self,
        request: Request<UpdateAttachment>,
    ) -> Result<Response<ProposeReply>, Status> {
        let names = self.caller(request.extensions(), Allowed::Node)?;
        let mut update = request.into_inner();
        update.node_id = names.node_id;
        self.propose_for(Change::UpdateAttachment(update)).await
    }
}
