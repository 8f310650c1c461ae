//! The Docker Engine API on this node's socket: swarm paths are answered here, everything else by the node's Engine.
//!
//! In reading order: [`route`] says who answers a request; one file per kind of object answers it; `pass` hands
//! the rest on; `core` holds everything that is pure, `io` the Engine's socket.

mod answer;
mod containers;
mod core;
mod events;
mod ingress;
mod io;
mod logs;
mod networks;
mod nodes;
mod pass;
mod route;
mod services;
mod swarm;
mod system;
mod tasks;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::daemon::NodeDaemon;
use answer::{Body, error_answer};
use events::EventLog;
use io::engine::Engine;

pub use logs::container_log;

/// How long open requests may take to end at shutdown. Streams that follow something never end by themselves.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// Pause after a failed accept (no file descriptors left, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every request handler sees.
pub(crate) struct Api {
    daemon: Arc<dyn NodeDaemon>,
    engine: Engine,
    events: EventLog,
    shutdown: CancellationToken,
}

/// Serves the API on `listener` until `shutdown`; requests that are open then get a second to end.
/// `engine_socket` is the Docker Engine's Unix socket: it need not answer, now or later.
pub async fn serve(
    listener: UnixListener,
    daemon: Arc<dyn NodeDaemon>,
    engine_socket: PathBuf,
    shutdown: CancellationToken,
) {
    let api = Arc::new(Api {
        daemon,
        engine: Engine::new(engine_socket),
        events: EventLog::new(),
        shutdown: shutdown.clone(),
    });
    let tasks = TaskTracker::new();
    tasks.spawn(events::watch(Arc::clone(&api)));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(serve_connection(Arc::clone(&api), stream));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection on the API socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tasks.close();
    if tokio::time::timeout(SHUTDOWN_GRACE, tasks.wait()).await.is_err() {
        tracing::debug!("API requests were cut off at shutdown");
    }
}

async fn serve_connection(api: Arc<Api>, stream: UnixStream) {
    let shutdown = api.shutdown.clone();
    let service = service_fn(move |request| handle(Arc::clone(&api), request));
    let connection = http1::Builder::new()
        // As with Docker, an idle connection stays: clients keep theirs for the next request.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(SHUTDOWN_GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the API ended");
    }
}

async fn handle(api: Arc<Api>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (method, target) = (request.method().clone(), request.uri().clone());
    let mut response = match route::answer(&api, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%method, %target, status = error.status, error = error.message, "refused");
            error_answer(&error)
        }
    };
    let version = system::advertised_now(&api).to_string();
    let headers = response.headers_mut();
    if let Ok(version) = HeaderValue::from_str(&version) {
        headers.insert("Api-Version", version);
    }
    headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers.entry(SERVER).or_insert(HeaderValue::from_static(concat!(
        "Skep/",
        env!("CARGO_PKG_VERSION"),
        " (linux)"
    )));
    Ok(response)
}
