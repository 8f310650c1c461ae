//! Start and stop of the DNS server of a node.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::io::upstream::Upstream;
use crate::io::{tcp, udp};
use crate::service::Service;
use crate::table::Table;

/// What is under way gets this long when the server stops.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("bind DNS to {address} over {transport}: {source}")]
    Bind {
        address: SocketAddr,
        transport: &'static str,
        source: io::Error,
    },
}

/// A running server. Dropping it stops it at once; [`Server::stop`] lets it finish.
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Server {
    /// Listens on `bind` over UDP and TCP and answers from whatever table is the latest. `upstreams` are
    /// asked in order for names that are not in the table; the server's own address among them is left
    /// out. With port 0 the system chooses one, the same for both transports.
    ///
    /// Call it within a tokio runtime.
    ///
    /// # Errors
    /// When the address is not on this node yet or the port is taken; nothing is left listening then.
    pub fn start(
        bind: SocketAddr,
        table: watch::Receiver<Arc<Table>>,
        upstreams: Vec<SocketAddr>,
    ) -> Result<Self, ServerError> {
        let socket = bind_udp(bind).map_err(|source| ServerError::Bind {
            address: bind,
            transport: "UDP",
            source,
        })?;
        let local_addr = socket.local_addr().unwrap_or(bind);
        let listener = bind_tcp(local_addr).map_err(|source| ServerError::Bind {
            address: local_addr,
            transport: "TCP",
            source,
        })?;
        let upstreams = upstreams
            .into_iter()
            .filter(|server| *server != local_addr)
            .collect();
        let service = Arc::new(Service::new(table, Upstream::new(upstreams)));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(udp::serve(socket, Arc::clone(&service), stop.clone()));
        tasks.spawn(tcp::serve(listener, service, stop.clone()));
        Ok(Self {
            local_addr,
            stop,
            tasks,
        })
    }

    /// The address it listens on, with the port the system chose if it was asked to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Takes no more queries, gives those under way a second, and ends.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // Running out of time is no failure: dropping the tasks ends what is left.
        let finished = timeout(GRACE, async { while self.tasks.join_next().await.is_some() {} }).await;
        if finished.is_err() {
            self.tasks.abort_all();
        }
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    // Sets SO_REUSEADDR on Unix, so connections left in TIME_WAIT do not hold up a restart.
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
