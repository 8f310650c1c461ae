//! The session of a node with the leader.

use std::pin::Pin;
use std::time::Duration;

use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::{Allowed, Desk};
use crate::rpc::wire::service::dispatcher_server::Dispatcher;
use crate::rpc::wire::*;

const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

fn say(word: ManagerWord) -> ManagerToNode {
    ManagerToNode { word: Some(word) }
}

#[tonic::async_trait]
impl Dispatcher for Desk {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<ManagerToNode, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<NodeToManager>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let names = self.caller(request.extensions(), Allowed::Node)?;
        let mut words = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, words.message())
            .await
            .map_err(|_| Status::deadline_exceeded("a session begins with Hello"))??;
        let Some(NodeWord::Hello(hello)) = first.and_then(|message| message.word) else {
            return Err(Status::invalid_argument("a session begins with Hello"));
        };
        let Some(session) = self.lead.dispatcher().open(&names.node_id, hello) else {
            let leader = self.group.leader().borrow().clone();
            let redirect = ManagerWord::Redirect(Redirect {
                leader: leader.map(|leader| leader.address).unwrap_or_default(),
            });
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(say(redirect))))));
        };
        let lead = self.lead.clone();
        let (node_id, id) = (names.node_id, session.id);
        tokio::spawn(async move {
            // Ends with the node's stream, or with the session when the leader drops it.
            loop {
                tokio::select! {
                    () = session.ended.cancelled() => break,
                    word = words.message() => match word {
                        Ok(Some(NodeToManager { word: Some(word) })) => lead.dispatcher().hear(&node_id, id, word).await,
                        Ok(Some(NodeToManager { word: None })) => {}
                        Ok(None) | Err(_) => break,
                    },
                }
            }
            lead.dispatcher().close(&node_id, id);
        });
        let answers = tokio_stream::wrappers::ReceiverStream::new(session.words).map(|word| Ok(say(word)));
        Ok(Response::new(Box::pin(answers)))
    }
}
