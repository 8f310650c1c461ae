//! Logs on their way from nodes to the manager whose client reads them: the leader passes the order on, the node sends
//! the log straight to the manager that waits.

use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Allowed, Desk};
use crate::manager::LogError;
use crate::rpc::inbox::Sender;
use crate::rpc::wire::service::logs_server::Logs;
use crate::rpc::wire::*;

const FIRST_PIECE: Duration = Duration::from_secs(5);

#[tonic::async_trait]
impl Logs for Desk {
    async fn order(&self, request: Request<OrderLog>) -> Result<Response<LogOrdered>, Status> {
        self.caller(request.extensions(), Allowed::Manager)?;
        let OrderLog { node_id, order } = request.into_inner();
        let leads = self.lead.dispatcher().since().is_some();
        let told = leads && self.lead.dispatcher().order_log(&node_id, order);
        Ok(Response::new(LogOrdered { leads, told }))
    }

    type PublishStream = Pin<Box<dyn Stream<Item = Result<Nothing, Status>> + Send>>;

    async fn publish(
        &self,
        request: Request<Streaming<LogPiece>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let names = self.caller(request.extensions(), Allowed::Node)?;
        let mut pieces = request.into_inner();
        let first = tokio::time::timeout(FIRST_PIECE, pieces.message())
            .await
            .map_err(|_| Status::deadline_exceeded("a log begins with its order"))??
            .ok_or_else(|| Status::invalid_argument("a log begins with its order"))?;
        let reader = self
            .group
            .inbox()
            .take(&first.id, &names.node_id)
            .ok_or_else(|| Status::not_found("nobody waits for this log"))?;
        let (open, answer) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = hand_on(pieces, &reader, &names.node_id) => {}
                () = reader.closed() => {}
                () = open.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answer))))
    }
}

/// Copies until the log ends, however it ends. The node waits while the reader is slow.
async fn hand_on(mut pieces: Streaming<LogPiece>, reader: &Sender, node_id: &str) {
    loop {
        let piece = match pieces.message().await {
            Ok(None) => return,
            Ok(Some(piece)) if !piece.failure.is_empty() => Err(LogError::Unreadable(piece.failure)),
            Ok(Some(piece)) => Ok(piece.data),
            Err(status) => {
                tracing::debug!(node_id, error = status.message(), "a log broke off");
                Err(LogError::Broken(node_id.to_string()))
            }
        };
        let ends = piece.is_err();
        if reader.send(piece).await.is_err() || ends {
            return;
        }
    }
}
