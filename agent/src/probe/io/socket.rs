//! The handle of running probes: their socket, their thread, and what they tell.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ring::hmac;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;
use tracing::warn;

use crate::probe::core::held::Held;
use crate::probe::core::watched::Watched;
use crate::probe::io::clock;
use crate::probe::io::knock::Knocker;
use crate::probe::io::sink::Sink;
use crate::probe::io::thread::{Prober, Told};

/// The UDP port of the probes unless told otherwise (the one of Swarm's gossip, which firewalls know).
pub const DEFAULT_PORT: u16 = 7946;
/// What others send while this thread waits for a CPU must find room.
const RECEIVE_BUFFER: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("bind the probe socket to {address} over UDP: {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("start the thread of the probes: {0}")]
    Thread(io::Error),
    #[error("read the clock of the probes: {0}")]
    Clock(nix::Error),
}

pub struct ProbeConfig {
    /// The node's data-path address, and [`DEFAULT_PORT`] unless told otherwise.
    pub bind: SocketAddr,
    /// This node's index.
    pub self_index: u32,
    /// The swarm's probe key.
    pub key: [u8; 32],
}

/// Running probes; they stop when this is dropped, without a word to the others.
#[derive(Debug)]
pub struct Probe {
    /// By node index of every peer: false while it is marked as gone. Changes only with the marks.
    pub alive: watch::Receiver<Arc<BTreeMap<u32, bool>>>,
    /// Latest round-trip time of every peer that has answered; renewed with each round of probes.
    pub rtt: watch::Receiver<Arc<BTreeMap<u32, Duration>>>,
    /// By index of the lease: who holds the address.
    pub held: watch::Receiver<Arc<BTreeMap<u32, Held>>>,
    /// By node index: hashes of its tasks that it says have ended.
    pub withdrawn: watch::Receiver<Arc<BTreeMap<u32, BTreeSet<u64>>>>,
    self_index: u32,
    local_addr: SocketAddr,
    /// True: hand over everything. Its end ends the thread.
    stopping: Option<watch::Sender<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// The address it is bound to, with the port the system chose if it was asked to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Before a planned stop: hands every address that this node holds to the next owner, and takes none any more.
    /// Returns when it holds none, or at the deadline.
    pub async fn hand_over_all(&self, deadline: Duration) {
        if let Some(stopping) = &self.stopping {
            stopping.send_replace(true);
        }
        let own = self.self_index;
        let mut held = self.held.clone();
        let free = held.wait_for(|held| held.values().all(|held| held.holder != Some(own)));
        if !matches!(tokio::time::timeout(deadline, free).await, Ok(Ok(_))) {
            warn!("not every address was handed over in time");
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stopping = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread of the probes had panicked");
        }
    }
}

/// Starts to watch whatever is in the channel. When its sender is gone the last value stays in force.
///
/// # Errors
/// When the address is not on this node, the port is taken, or there is no thread to be had.
pub fn start(
    config: ProbeConfig,
    watched: watch::Receiver<Arc<Watched>>,
    sink: Box<dyn Sink>,
) -> Result<Probe, ProbeError> {
    let address = config.bind;
    let socket = bind(address).map_err(|source| ProbeError::Bind { address, source })?;
    let local_addr = socket.local_addr().unwrap_or(address);
    let now = clock::monotonic().map_err(ProbeError::Clock)?;
    // Zero is no boot number; 63 bits of chance are enough.
    let boot = rand::random::<u64>() | 1;
    let (alive_sender, alive) = watch::channel(Arc::default());
    let (rtt_sender, rtt) = watch::channel(Arc::default());
    let (held_sender, held) = watch::channel(Arc::default());
    let (withdrawn_sender, withdrawn) = watch::channel(Arc::default());
    let (stopping, stop) = watch::channel(false);
    let told = Told {
        alive: alive_sender,
        rtt: rtt_sender,
        held: held_sender,
        withdrawn: withdrawn_sender,
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, &config.key);
    let knocker = Knocker::bind(address.ip()).map_err(|source| ProbeError::Bind { address, source })?;
    let prober = Prober::new(config.self_index, boot, key, knocker, now, told, sink);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ProbeError::Thread)?;
    let thread = thread::Builder::new()
        .name("probe".to_string())
        .spawn(move || runtime.block_on(prober.run(socket, watched, stop)))
        .map_err(ProbeError::Thread)?;
    Ok(Probe {
        alive,
        rtt,
        held,
        withdrawn,
        self_index: config.self_index,
        local_addr,
        stopping: Some(stopping),
        thread: Some(thread),
    })
}

fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // As much as the system allows; it says nothing when that is less.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests;
