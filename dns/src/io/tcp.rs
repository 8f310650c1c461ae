//! The TCP listener (RFC 7766): several queries on one connection, answered in order.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::udp::report;
use crate::core::message::Transport;
use crate::service::{First, Service};

/// Connections at once, of all clients and of one. One above is closed as soon as it is accepted.
const MAX_CONNECTIONS: usize = 256;
const MAX_CONNECTIONS_OF_CLIENT: usize = 32;
/// The longest wait for the next whole query, and for room to write a reply.
const IDLE: Duration = Duration::from_secs(10);
/// Before the next accept after an error (out of file descriptors, for one).
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled; open connections finish their current query.
pub async fn serve(listener: TcpListener, service: Arc<Service>, stop: CancellationToken) {
    let mut open: JoinSet<IpAddr> = JoinSet::new();
    let mut clients: HashMap<IpAddr, usize> = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(done) = open.join_next() => match done {
                Ok(client) => forget(&mut clients, client),
                Err(error) => {
                    // Whose it was is lost with the panic: count anew from nothing rather than lock out.
                    clients.clear();
                    report(Err(error));
                }
            },
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    let count = clients.get(&client.ip()).copied().unwrap_or(0);
                    if open.len() >= MAX_CONNECTIONS || count >= MAX_CONNECTIONS_OF_CLIENT {
                        debug!(%client, "DNS connection refused: too many");
                        continue;
                    }
                    clients.insert(client.ip(), count + 1);
                    open.spawn(connection(stream, client, Arc::clone(&service), stop.clone()));
                }
                Err(error) => {
                    warn!(%error, "accept a DNS connection");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            },
        }
    }
    while let Some(done) = open.join_next().await {
        report(done.map(|_| ()));
    }
}

fn forget(clients: &mut HashMap<IpAddr, usize>, client: IpAddr) {
    if let Some(count) = clients.get_mut(&client) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            clients.remove(&client);
        }
    }
}

async fn connection(
    mut stream: TcpStream,
    client: SocketAddr,
    service: Arc<Service>,
    stop: CancellationToken,
) -> IpAddr {
    loop {
        let query = tokio::select! {
            () = stop.cancelled() => break,
            query = timeout(IDLE, read_query(&mut stream)) => query,
        };
        let Ok(Ok(query)) = query else { break };
        let reply = match service.begin(client.ip(), &query, Transport::Tcp) {
            First::Nothing => break,
            First::Reply(reply) => reply,
            First::Pending(question) => question.finish().await,
        };
        match timeout(IDLE, write_reply(&mut stream, &reply)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                debug!(%client, %error, "write a DNS reply over TCP");
                break;
            }
            Err(_) => break,
        }
    }
    client.ip()
}

async fn read_query(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut query = vec![0; usize::from(length)];
    stream.read_exact(&mut query).await?;
    Ok(query)
}

async fn write_reply(stream: &mut TcpStream, reply: &[u8]) -> io::Result<()> {
    let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(2 + reply.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(reply);
    stream.write_all(&framed).await
}
