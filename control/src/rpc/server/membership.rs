//! Managers that come and go.

use tonic::{Request, Response, Status};

use super::{Allowed, Desk};
use crate::leader::members::MemberError;
use crate::model::{Code, Refused, Role};
use crate::rpc::wire::service::membership_server::Membership;
use crate::rpc::wire::*;

fn reply(result: Result<bool, MemberError>) -> Result<Response<MembershipReply>, Status> {
    match result {
        Ok(done) => Ok(Response::new(MembershipReply { done, refused: None })),
        Err(MemberError::Stopped) => Err(Status::unavailable("the Raft core does not run")),
        Err(error) => {
            let refused = Refused {
                code: Code::FailedPrecondition as i32,
                message: error.to_string(),
            };
            Ok(Response::new(MembershipReply {
                done: true,
                refused: Some(refused),
            }))
        }
    }
}

#[tonic::async_trait]
impl Membership for Desk {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<MembershipReply>, Status> {
        let names = self.caller(request.extensions(), Allowed::Manager)?;
        let address = request.into_inner().manager_address;
        if address.is_empty() {
            reply(self.lead.add_member(&names.node_id).await)
        } else {
            reply(self.lead.add_promoted(&names.node_id, &address).await)
        }
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<MembershipReply>, Status> {
        let names = self.caller(request.extensions(), Allowed::Node)?;
        reply(self.lead.leave(&names.node_id, names.role == Role::Manager).await)
    }
}
