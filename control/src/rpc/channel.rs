//! Calling managers: channels that dial by themselves, with this node's certificate, and accept only the peer meant.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

use super::gate::{Closable, Gate, Peer};
use super::tls::{self, TlsError};
use crate::ca::Identity;

/// TCP and TLS handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer that is gone without a word is noticed after the sum of both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// DNS name in every manager's certificate.
pub const ANY_MANAGER: &str = "swarm-manager";

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("{address} is not host:port")]
    Address {
        address: String,
        #[source]
        source: tonic::transport::Error,
    },
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("connect to {address}")]
    Connect { address: String, source: std::io::Error },
    #[error("TLS handshake with {address}")]
    Handshake { address: String, source: std::io::Error },
    #[error("{name} is not a server name")]
    Name {
        name: String,
        source: rustls::pki_types::InvalidDnsNameError,
    },
    #[error("{address} did not answer in time")]
    Timeout { address: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What a caller shows and whom it believes.
#[derive(Clone)]
pub enum Trust {
    /// A member; the certificate is read at every dial, so that a renewed one is used.
    Member(watch::Receiver<Identity>),
    /// A joining node that has the root.
    Pinned(Arc<ClientConfig>),
}

/// Makes channels.
#[derive(Clone)]
pub struct Dialer {
    trust: Trust,
    gate: Arc<Gate>,
}

impl Dialer {
    pub fn new(trust: Trust, gate: Arc<Gate>) -> Dialer {
        Dialer { trust, gate }
    }

    /// A channel to `host:port` that dials when it is first used and again whenever it broke. `name` is what the
    /// certificate of the other end must say: a node id or [`ANY_MANAGER`].
    pub fn channel(&self, address: &str, name: &str) -> Result<Channel, ChannelError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|source| ChannelError::Address {
                address: address.to_string(),
                source,
            })?
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let connector = Connector {
            dialer: self.clone(),
            address: address.to_string(),
            name: name.to_string(),
        };
        Ok(endpoint.connect_with_connector_lazy(connector))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        match &self.trust {
            Trust::Member(identity) => tls::member(&identity.borrow()).map(Arc::new),
            Trust::Pinned(config) => Ok(config.clone()),
        }
    }

    async fn dial(&self, address: &str, name: &str) -> Result<Closable<TlsStream<TcpStream>>, DialError> {
        let token = self.gate.token();
        let name = ServerName::try_from(name.to_string()).map_err(|source| DialError::Name {
            name: name.to_string(),
            source,
        })?;
        let connecting = async {
            let stream = TcpStream::connect(address)
                .await
                .map_err(|source| DialError::Connect {
                    address: address.to_string(),
                    source,
                })?;
            stream.set_nodelay(true).map_err(|source| DialError::Connect {
                address: address.to_string(),
                source,
            })?;
            let connector = TlsConnector::from(self.config()?);
            connector
                .connect(name, stream)
                .await
                .map_err(|source| DialError::Handshake {
                    address: address.to_string(),
                    source,
                })
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, run_until(token.clone(), address, connecting))
            .await
            .map_err(|_| DialError::Timeout {
                address: address.to_string(),
            })??;
        Ok(Closable::new(stream, token, Peer::default()))
    }
}

async fn run_until<T>(
    token: CancellationToken,
    address: &str,
    work: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    match token.run_until_cancelled(work).await {
        Some(result) => result,
        None => Err(DialError::Connect {
            address: address.to_string(),
            source: std::io::ErrorKind::ConnectionAborted.into(),
        }),
    }
}

/// tower's way of dialling.
#[derive(Clone)]
struct Connector {
    dialer: Dialer,
    address: String,
    name: String,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Closable<TlsStream<TcpStream>>>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let stream = this.dialer.dial(&this.address, &this.name).await?;
            Ok(TokioIo::new(stream))
        })
    }
}

/// A request with a deadline, known to both ends.
pub fn within<T>(message: T, deadline: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(deadline);
    request
}
