//! Logs of this node's containers, sent to managers whose clients read them.

use std::path::PathBuf;
use std::sync::Arc;

use skep_control::api::container_log;
use skep_control::rpc::client::NodeClient;
use skep_control::rpc::wire::{LogOrder, LogPiece};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::reconciler::chain;

/// Logs sent at a time; who asks for more is told so.
const LOGS: usize = 256;
/// Pieces that wait for a slow reader; the Engine waits when it is full.
const PIECES: usize = 4;

/// Sends logs until shutdown.
#[derive(Clone)]
pub struct Logs {
    engine_socket: PathBuf,
    client: Arc<NodeClient>,
    places: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Logs {
    pub fn new(engine_socket: PathBuf, client: Arc<NodeClient>, shutdown: CancellationToken) -> Logs {
        Logs {
            engine_socket,
            client,
            places: Arc::new(Semaphore::new(LOGS)),
            shutdown,
        }
    }

    /// Begins to send a log; answers at once.
    pub fn send(&self, order: LogOrder) {
        let logs = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = logs.one(order) => {}
                () = logs.shutdown.cancelled() => {}
            }
        });
    }

    async fn one(&self, order: LogOrder) {
        let (sender, pieces) = mpsc::channel(PIECES);
        let reading = async {
            self.read(&order, sender).await;
            // The stream ends with the sender, and the call with the stream.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            sent = self.client.publish_log(&order, pieces) => if let Err(error) = sent {
                tracing::info!(container = order.container_id, error = %chain(&error), "a log was not sent");
            },
            () = reading => {}
        }
    }

    async fn read(&self, order: &LogOrder, sender: mpsc::Sender<LogPiece>) {
        let piece = |data: Vec<u8>, failure: String| LogPiece {
            id: order.id.clone(),
            data,
            failure,
        };
        // The manager waits for a sign that the log begins, also of one that says nothing yet.
        if sender.send(piece(Vec::new(), String::new())).await.is_err() {
            return;
        }
        let failure = match self.places.try_acquire() {
            Err(_) => Some(format!("this node sends {LOGS} logs already")),
            Ok(_place) => {
                let copying = container_log(&self.engine_socket, &order.container_id, &order.query, |data| {
                    let (sender, piece) = (sender.clone(), piece(data, String::new()));
                    async move { sender.send(piece).await.is_ok() }
                });
                copying.await.err().map(|error| error.to_string())
            }
        };
        if let Some(failure) = failure
            && sender.send(piece(Vec::new(), failure)).await.is_err()
        {
            tracing::debug!("the reader of a log went away");
        }
    }
}
