//! Docker's container events as a bounded queue.

use bollard::errors::Error as BollardError;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::io::docker::{Engine, EngineError};

#[derive(Debug)]
pub enum Event {
    /// Something happened to this container of a task.
    Container(String),
    Lost(EngineError),
}

/// Starts to follow. The queue holds 256 events; when it is full the Engine's stream waits.
pub fn follow(engine: &Engine) -> Result<mpsc::Receiver<Event>, EngineError> {
    let stream = engine.events()?;
    let (sender, receiver) = mpsc::channel(256);
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = sender.closed() => return,
            };
            let event = match event {
                Some(Ok(event)) if event.task_id.is_empty() => continue,
                Some(Ok(event)) => Event::Container(event.container_id),
                Some(Err(error)) => Event::Lost(error),
                None => return,
            };
            if sender.send(event).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// The stream ended without an error: the Engine shut down.
pub fn ended() -> EngineError {
    EngineError::Unreachable {
        operation: "follow events of",
        object: "the Docker Engine".to_string(),
        source: Box::new(BollardError::IOError {
            err: std::io::ErrorKind::UnexpectedEof.into(),
        }),
    }
}
