//! Logs that this manager waits for: an order's number leads the node's stream to the client that reads it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::manager::LogError;
use crate::model::id::object_id;

/// Pieces that wait for a slow reader; the node's stream waits when it is full.
const PIECES: usize = 8;
/// How long a node may take to begin. A node that died a moment ago still has a session with the leader.
const BEGIN: Duration = Duration::from_secs(5);

pub type Sender = mpsc::Sender<Result<Vec<u8>, LogError>>;
pub type Receiver = mpsc::Receiver<Result<Vec<u8>, LogError>>;

/// Orders that no node has answered yet.
#[derive(Default)]
pub struct Inbox {
    waiting: Mutex<BTreeMap<String, Waiting>>,
}

struct Waiting {
    node_id: String,
    pieces: Sender,
    begun: oneshot::Sender<()>,
}

/// One order's place; dropping it gives it up.
pub struct Place {
    entry: Entry,
    node_id: String,
    pieces: Receiver,
    begun: oneshot::Receiver<()>,
}

/// Takes itself out of the inbox.
struct Entry {
    inbox: Arc<Inbox>,
    id: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.inbox.lock().remove(&self.id);
    }
}

impl Place {
    /// What the node's first piece must say.
    pub fn id(&self) -> &str {
        &self.entry.id
    }

    /// Waits until the node begins to send.
    pub async fn begun(self) -> Result<Receiver, LogError> {
        match tokio::time::timeout(BEGIN, self.begun).await {
            Ok(Ok(())) => Ok(self.pieces),
            Ok(Err(_)) | Err(_) => Err(LogError::NodeAway(self.node_id)),
        }
    }
}

impl Inbox {
    /// A place for the log that a node will be asked for.
    pub fn wait_for(self: &Arc<Inbox>, node_id: &str) -> Place {
        let (sender, pieces) = mpsc::channel(PIECES);
        let (tell, begun) = oneshot::channel();
        let id = object_id(rand::random());
        let waiting = Waiting {
            node_id: node_id.to_string(),
            pieces: sender,
            begun: tell,
        };
        self.lock().insert(id.clone(), waiting);
        Place {
            entry: Entry {
                inbox: Arc::clone(self),
                id,
            },
            node_id: node_id.to_string(),
            pieces,
            begun,
        }
    }

    /// The reader of a log that `node_id` begins to send; `None` if nobody waits for it (any more).
    pub fn take(&self, id: &str, node_id: &str) -> Option<Sender> {
        let mut waiting = self.lock();
        if waiting.get(id)?.node_id != node_id {
            return None;
        }
        let Waiting { pieces, begun, .. } = waiting.remove(id)?;
        begun.send(()).ok()?;
        Some(pieces)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_node_that_was_asked_answers_and_only_once() {
        let inbox = Arc::new(Inbox::default());
        let place = inbox.wait_for("n1");
        let id = place.id().to_string();
        assert!(inbox.take(&id, "n2").is_none());
        let sender = inbox.take(&id, "n1").unwrap();
        assert!(inbox.take(&id, "n1").is_none());
        let mut pieces = place.begun().await.unwrap();
        sender.send(Ok(b"line".to_vec())).await.unwrap();
        drop(sender);
        assert_eq!(pieces.recv().await, Some(Ok(b"line".to_vec())));
        assert_eq!(pieces.recv().await, None);
    }

    #[test]
    fn who_waits_no_more_is_not_sent_to() {
        let inbox = Arc::new(Inbox::default());
        let place = inbox.wait_for("n1");
        let id = place.id().to_string();
        drop(place);
        assert!(inbox.take(&id, "n1").is_none());
    }
}
