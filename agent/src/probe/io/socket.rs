//! The socket of the probes and the task that owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ring::hmac;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::probe::core::held::Held;
use crate::probe::core::judge::{INTERVAL, Judge};
use crate::probe::core::message::{MAX_LEN, Message};
use crate::probe::core::watched::{Peer, Watched};
use crate::probe::io::sink::Sink;

/// The UDP port of the probes unless told otherwise (the one of Swarm's gossip, which firewalls know).
pub const DEFAULT_PORT: u16 = 7946;
/// How often is judged: finer than the probes, so that a missing node is noticed when it is due.
const TICK: Duration = Duration::from_millis(50);
/// Before the socket is read again after an error, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("bind the probe socket to {address} over UDP: {source}")]
    Bind { address: SocketAddr, source: io::Error },
}

pub struct ProbeConfig {
    /// The node's data-path address, and [`DEFAULT_PORT`] unless told otherwise.
    pub bind: SocketAddr,
    /// This node's index.
    pub self_index: u32,
    /// The swarm's probe key.
    pub key: [u8; 32],
}

/// Running probes; they stop when this is dropped.
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
    task: JoinHandle<()>,
}

impl Probe {
    /// The address it is bound to, with the port the system chose if it was asked to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Before a planned stop: hands every address that this node holds to the next owner. Returns when it holds none,
    /// or at the deadline.
    pub async fn hand_over_all(&self, deadline: Duration) {
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
        self.task.abort();
    }
}

/// Starts to watch whatever is in the channel. When its sender is gone the last value stays in force.
///
/// Call it within a tokio runtime.
///
/// # Errors
/// When the address is not on this node or the port is taken.
pub fn start(
    config: ProbeConfig,
    watched: watch::Receiver<Arc<Watched>>,
    sink: Box<dyn Sink>,
) -> Result<Probe, ProbeError> {
    let address = config.bind;
    let socket = bind(address).map_err(|source| ProbeError::Bind { address, source })?;
    let local_addr = socket.local_addr().unwrap_or(address);
    let started = Instant::now();
    // Zero is no boot number; 63 bits of chance are enough.
    let boot = rand::random::<u64>() | 1;
    let (alive_sender, alive) = watch::channel(Arc::default());
    let (rtt_sender, rtt) = watch::channel(Arc::default());
    let (held_sender, held) = watch::channel(Arc::default());
    let (withdrawn_sender, withdrawn) = watch::channel(Arc::default());
    let prober = Prober {
        socket,
        key: hmac::Key::new(hmac::HMAC_SHA256, &config.key),
        judge: Judge::new(config.self_index, boot, Duration::ZERO),
        addresses: BTreeMap::new(),
        started,
        next_round: Duration::ZERO,
        alive: alive_sender,
        rtt: rtt_sender,
        _held: held_sender,
        _withdrawn: withdrawn_sender,
        sink,
    };
    let task = tokio::spawn(prober.run(watched));
    Ok(Probe {
        alive,
        rtt,
        held,
        withdrawn,
        self_index: config.self_index,
        local_addr,
        task,
    })
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

struct Prober {
    socket: UdpSocket,
    key: hmac::Key,
    judge: Judge,
    addresses: BTreeMap<u32, SocketAddr>,
    started: Instant,
    next_round: Duration,
    alive: watch::Sender<Arc<BTreeMap<u32, bool>>>,
    rtt: watch::Sender<Arc<BTreeMap<u32, Duration>>>,
    _held: watch::Sender<Arc<BTreeMap<u32, Held>>>,
    _withdrawn: watch::Sender<Arc<BTreeMap<u32, BTreeSet<u64>>>>,
    sink: Box<dyn Sink>,
}

impl Prober {
    async fn run(mut self, mut peers: watch::Receiver<Arc<Watched>>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // One byte more than a probe may have, so that a longer one is not mistaken for a valid one.
        let mut buffer = [0; MAX_LEN + 1];
        peers.mark_changed();
        let mut peers_open = true;
        loop {
            tokio::select! {
                changed = peers.changed(), if peers_open => match changed {
                    Ok(()) => {
                        let list = peers.borrow_and_update().clone();
                        self.take_peers(&list.peers);
                    }
                    Err(_) => peers_open = false,
                },
                _ = ticks.tick() => self.tick(),
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => self.receive(&buffer[..length], from),
                    Err(error) => {
                        warn!(%error, "receive a probe");
                        tokio::time::sleep(ERROR_PAUSE).await;
                    }
                },
            }
        }
    }

    fn take_peers(&mut self, list: &[Peer]) {
        self.addresses = list.iter().map(|peer| (peer.index, peer.address)).collect();
        let indexes: BTreeSet<u32> = self.addresses.keys().copied().collect();
        self.judge.set_peers(&indexes, self.started.elapsed());
        self.publish();
        self.round();
    }

    fn tick(&mut self) {
        let now = self.started.elapsed();
        let news = self.judge.judge(now);
        self.publish();
        if news || now >= self.next_round {
            self.round();
        }
    }

    fn receive(&mut self, bytes: &[u8], from: SocketAddr) {
        let Some(message) = Message::open(&self.key, bytes) else {
            debug!(%from, length = bytes.len(), "not a probe of this swarm");
            return;
        };
        let now = self.started.elapsed();
        // Judged first: if this node was stopped for a while, its clocks restart before they are read.
        let news = self.judge.judge(now);
        self.judge.receive(&message, now);
        self.judge.judge(now);
        self.publish();
        if news {
            self.round();
        }
    }

    /// Sends one probe to each peer. What the socket does not take is a lost datagram like any other.
    fn round(&mut self) {
        let now = self.started.elapsed();
        self.next_round = now + INTERVAL;
        for message in self.judge.probes(now) {
            let Some(address) = self.addresses.get(&message.receiver) else {
                continue;
            };
            if let Err(error) = self.socket.try_send_to(&message.seal(&self.key), *address) {
                debug!(peer = message.receiver, %address, %error, "send a probe");
            }
        }
        self.rtt.send_replace(Arc::new(self.judge.rtt()));
    }

    fn publish(&mut self) {
        let alive = self.judge.alive();
        let sink = &mut self.sink;
        self.alive.send_if_modified(|current| {
            if **current == alive {
                return false;
            }
            for (index, is_alive) in &alive {
                if current.get(index).is_some_and(|was| was != is_alive) {
                    info!(node = index, alive = is_alive, "peer mark changed");
                    sink.mark(*index, *is_alive);
                }
            }
            *current = Arc::new(alive);
            true
        });
    }
}

#[cfg(test)]
mod tests;
