//! The upstream name servers: questions forwarded over UDP, over TCP when the answer is truncated.
//!
//! Each question has a socket of its own, connected, so the kernel drops answers from elsewhere; a
//! random port, a random id and a random mix of cases in the name make an answer hard to guess
//! (RFC 5452; draft-vixie-dnsext-dns0x20).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::core::cache::Cache;
use crate::core::message::Request;

/// All of one question's attempts together. Below the 5 s after which glibc asks again.
pub const DEADLINE: Duration = Duration::from_secs(4);
/// The time one server is given, by round. Every server is asked once a round.
const ROUNDS: [Duration; 2] = [Duration::from_millis(1000), Duration::from_millis(2000)];
/// Questions upstream at once, of the node and of one client.
const MAX_PENDING: usize = 512;
const MAX_PENDING_OF_CLIENT: usize = 64;
const CACHE_ENTRIES: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("no upstream server is known")]
    NoServer,
    #[error("encode the question for upstream {server}: {source}")]
    Encode {
        server: SocketAddr,
        source: hickory_proto::ProtoError,
    },
    #[error("exchange with upstream {server} over {transport}: {source}")]
    Exchange {
        server: SocketAddr,
        transport: &'static str,
        source: io::Error,
    },
    #[error("upstream {server} sent an answer over TCP that does not fit the question")]
    Mismatch { server: SocketAddr },
    #[error("upstream {server} did not answer in time")]
    Timeout { server: SocketAddr },
}

#[derive(Debug)]
pub struct Upstream {
    servers: Vec<SocketAddr>,
    cache: Mutex<Cache>,
    started: Instant,
    places: Arc<Semaphore>,
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place among the questions that are asked upstream; given back on drop.
#[derive(Debug)]
pub struct Admission {
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
    client: IpAddr,
    _place: OwnedSemaphorePermit,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut clients = lock(&self.clients);
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

/// A poisoned lock means that a thread panicked between two plain map operations; the data is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a server's reply over UDP amounts to.
enum Received {
    Answer(Message),
    /// Truncated, or the server does not keep the name's case: ask over TCP, where nobody can guess.
    AskByTcp,
}

impl Upstream {
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            cache: Mutex::new(Cache::new(CACHE_ENTRIES)),
            started: Instant::now(),
            places: Arc::new(Semaphore::new(MAX_PENDING)),
            clients: Arc::default(),
        }
    }

    pub fn cached(&self, request: &Request) -> Option<Message> {
        lock(&self.cache).get(request.query(), self.started.elapsed())
    }

    /// Takes a place, or None when the node's or this client's are all taken.
    pub fn admit(&self, client: IpAddr) -> Option<Admission> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let mut clients = lock(&self.clients);
        let count = clients.entry(client).or_default();
        if *count >= MAX_PENDING_OF_CLIENT {
            return None;
        }
        *count += 1;
        Some(Admission {
            clients: Arc::clone(&self.clients),
            client,
            _place: place,
        })
    }

    /// Asks the servers in order, twice, and keeps the answer for a little while.
    ///
    /// # Errors
    /// The last server's failure, when none gave an answer within [`DEADLINE`]. A server that refuses
    /// or fails (SERVFAIL) counts as an answer only if no other gives a better one.
    pub async fn resolve(&self, request: &Request) -> Result<Message, UpstreamError> {
        let end = Instant::now() + DEADLINE;
        let mut last = Err(UpstreamError::NoServer);
        for patience in ROUNDS {
            for &server in &self.servers {
                let until = end.min(Instant::now() + patience);
                let answer = timeout_at(until, exchange(server, request)).await;
                match answer.unwrap_or(Err(UpstreamError::Timeout { server })) {
                    Ok(message) if is_final(&message) => {
                        lock(&self.cache).put(request.query(), &message, self.started.elapsed());
                        return Ok(message);
                    }
                    Ok(message) => last = Ok(message),
                    Err(error) if last.is_err() => last = Err(error),
                    Err(_) => {}
                }
                if Instant::now() >= end {
                    return last;
                }
            }
            // Asking again helps against a lost datagram, not against a server that said no.
            if last.is_ok() {
                break;
            }
        }
        last
    }
}

fn is_final(message: &Message) -> bool {
    matches!(
        message.metadata.response_code,
        ResponseCode::NoError | ResponseCode::NXDomain
    )
}

async fn exchange(server: SocketAddr, request: &Request) -> Result<Message, UpstreamError> {
    let mut name = request.query().name().clone();
    name.randomize_label_case();
    let question = request.for_upstream(rand::random(), name);
    let bytes = question
        .to_vec()
        .map_err(|source| UpstreamError::Encode { server, source })?;
    match exchange_udp(server, &question, &bytes).await {
        Ok(Received::Answer(message)) => Ok(message),
        Ok(Received::AskByTcp) => exchange_tcp(server, &question, &bytes).await,
        Err(source) => Err(UpstreamError::Exchange {
            server,
            transport: "UDP",
            source,
        }),
    }
}

async fn exchange_udp(server: SocketAddr, question: &Message, bytes: &[u8]) -> io::Result<Received> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Ok(message) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        if !fits(question, &message) {
            continue;
        }
        let same_case = message.queries[0].name().eq_case(question.queries[0].name());
        if message.metadata.truncation || !same_case {
            return Ok(Received::AskByTcp);
        }
        return Ok(Received::Answer(message));
    }
}

async fn exchange_tcp(
    server: SocketAddr,
    question: &Message,
    bytes: &[u8],
) -> Result<Message, UpstreamError> {
    let answer = talk_tcp(server, bytes)
        .await
        .map_err(|source| UpstreamError::Exchange {
            server,
            transport: "TCP",
            source,
        })?;
    match Message::from_vec(&answer) {
        Ok(message) if fits(question, &message) => Ok(message),
        _ => Err(UpstreamError::Mismatch { server }),
    }
}

async fn talk_tcp(server: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Whether a message answers this very question (names compare regardless of case).
fn fits(question: &Message, message: &Message) -> bool {
    message.metadata.message_type == MessageType::Response
        && message.metadata.id == question.metadata.id
        && message.queries == question.queries
}
