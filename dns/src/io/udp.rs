//! The UDP listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::core::message::Transport;
use crate::service::{First, Service};

/// A query is far shorter; a longer datagram is cut and then found malformed.
const MAX_QUERY: usize = 4096;
/// Before the socket is read again after an error, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop` is cancelled, then finishes what is being asked upstream.
/// Only such questions get a task of their own, and their number is bounded by admission.
pub async fn serve(socket: UdpSocket, service: Arc<Service>, stop: CancellationToken) {
    let socket = Arc::new(socket);
    let mut pending = JoinSet::new();
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(done) = pending.join_next() => report(done),
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, client)) => {
                    handle(&socket, &service, client, &buffer[..length], &mut pending).await;
                }
                Err(error) => {
                    warn!(%error, "receive a DNS query over UDP");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            },
        }
    }
    while let Some(done) = pending.join_next().await {
        report(done);
    }
}

async fn handle(
    socket: &Arc<UdpSocket>,
    service: &Service,
    client: SocketAddr,
    query: &[u8],
    pending: &mut JoinSet<()>,
) {
    match service.begin(client.ip(), query, Transport::Udp) {
        First::Nothing => {}
        First::Reply(reply) => send(socket, client, &reply).await,
        First::Pending(question) => {
            let socket = Arc::clone(socket);
            pending.spawn(async move {
                let reply = question.finish().await;
                send(&socket, client, &reply).await;
            });
        }
    }
}

async fn send(socket: &UdpSocket, client: SocketAddr, reply: &[u8]) {
    if let Err(error) = socket.send_to(reply, client).await {
        debug!(%client, %error, "send a DNS reply over UDP");
    }
}

/// A panic in a query's task costs that query; it is ours to fix, so it is said aloud.
pub fn report(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        error!(%error, "a DNS query's task panicked");
    }
}
