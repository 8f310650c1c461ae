//! Connections that can be closed: all of a node when it stops, those of one peer when it is removed.

use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::ca::authority::CertNames;

/// All connections of this node, both directions. While it is shut, none is made and none works.
pub struct Gate {
    token: Mutex<CancellationToken>,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate {
            token: Mutex::new(CancellationToken::new()),
        }
    }
}

impl Gate {
    /// The token under which a new connection lives; cancelled already when the gate is shut.
    pub fn token(&self) -> CancellationToken {
        self.lock().child_token()
    }

    pub fn shut(&self) {
        self.lock().cancel();
    }

    /// Lets new connections in again.
    pub fn open(&self) {
        *self.lock() = CancellationToken::new();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, CancellationToken> {
        self.token
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Who is at the other end of a connection to this manager; absent without a client certificate.
#[derive(Clone, Debug, Default)]
pub struct Peer(pub Option<CertNames>);

/// A stream that fails once its token is cancelled.
pub struct Closable<S> {
    stream: S,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    peer: Peer,
}

impl<S> Closable<S> {
    pub fn new(stream: S, token: CancellationToken, peer: Peer) -> Closable<S> {
        Closable {
            stream,
            closed: Box::pin(token.cancelled_owned()),
            peer,
        }
    }

    fn poll_closed(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.closed.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl<S> Connected for Closable<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Closable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_closed(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Closable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_closed(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_closed(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
