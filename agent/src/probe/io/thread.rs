//! The thread that sends, receives, waits precisely, and tells the findings.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ring::hmac;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::probe::core::held::Held;
use crate::probe::core::hosts::Hosts;
use crate::probe::core::judge::INTERVAL;
use crate::probe::core::lease::World;
use crate::probe::core::message::{MAX_LEN, Message};
use crate::probe::core::node::{Event, Node};
use crate::probe::core::watched::Watched;
use crate::probe::io::knock::Knocker;
use crate::probe::io::sink::Sink;
use crate::probe::io::{clock, priority};

/// Before the socket is read again after an error, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// So many datagrams are taken in before what is due is done.
const BATCH: usize = 512;

/// Where the findings can be read.
pub struct Told {
    pub alive: watch::Sender<Arc<BTreeMap<u32, bool>>>,
    pub rtt: watch::Sender<Arc<BTreeMap<u32, Duration>>>,
    pub held: watch::Sender<Arc<BTreeMap<u32, Held>>>,
    pub withdrawn: watch::Sender<Arc<BTreeMap<u32, BTreeSet<u64>>>>,
}

pub struct Prober {
    key: hmac::Key,
    node: Node,
    addresses: BTreeMap<u32, SocketAddr>,
    knocker: Knocker,
    hosts: Hosts,
    next_knock: Duration,
    outside: Outside,
    told: Told,
    now: Duration,
    next_rtt: Duration,
    /// What is told may differ from what was told last.
    has_news: bool,
}

/// The outside of the pure machine.
struct Outside(Box<dyn Sink>);

impl World for Outside {
    fn may_hold(&mut self, index: u32, alone: bool) -> bool {
        self.0.may_hold(index, alone)
    }

    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // A clock before 1970 tells nothing.
        u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Prober {
    pub fn new(
        self_index: u32,
        boot: u64,
        key: hmac::Key,
        knocker: Knocker,
        now: Duration,
        told: Told,
        sink: Box<dyn Sink>,
    ) -> Self {
        Self {
            key,
            node: Node::new(self_index, boot, now),
            addresses: BTreeMap::new(),
            knocker,
            hosts: Hosts::default(),
            next_knock: now,
            outside: Outside(sink),
            told,
            now,
            next_rtt: now,
            has_news: true,
        }
    }

    /// Runs until the sender of `stop` is gone.
    pub async fn run(
        mut self,
        socket: std::net::UdpSocket,
        mut watched: watch::Receiver<Arc<Watched>>,
        mut stop: watch::Receiver<bool>,
    ) {
        match priority::raise() {
            priority::Class::Ordinary(error) => {
                warn!(%error, "the probes are scheduled like everything else: a busy node may be taken for a dead one");
            }
            class => info!(?class, "probes are scheduled first"),
        }
        let socket = match UdpSocket::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                warn!(%error, "the probe socket cannot be waited for: no probes");
                return;
            }
        };
        watched.mark_changed();
        let mut watched_open = true;
        let mut pause = Duration::ZERO;
        loop {
            let due = self.node.next_due().saturating_sub(self.now).max(pause);
            tokio::select! {
                changed = watched.changed(), if watched_open => match changed {
                    Ok(()) => {
                        let value = watched.borrow_and_update().clone();
                        self.tick();
                        self.watch(&value);
                    }
                    Err(_) => watched_open = false,
                },
                changed = stop.changed() => match changed {
                    Ok(()) => self.node.stop(),
                    Err(_) => return,
                },
                () = tokio::time::sleep(due) => {}
                ready = socket.readable(), if pause.is_zero() => if let Err(error) = ready {
                    warn!(%error, "wait for a probe");
                },
            }
            // Whatever has arrived is taken in before anybody is judged by its absence.
            pause = self.receive(&socket);
            self.step(&socket);
            self.publish();
        }
    }

    /// Moves the clock on. One that cannot be read stands still, and with it every lease runs out in the kernel.
    fn tick(&mut self) {
        match clock::monotonic() {
            Ok(now) => self.now = now,
            Err(error) => warn!(%error, "read the clock of the probes"),
        }
    }

    fn watch(&mut self, watched: &Watched) {
        self.addresses = watched
            .peers
            .iter()
            .map(|peer| (peer.index, peer.address))
            .collect();
        self.node.watch(watched, self.now);
        self.has_news = true;
    }

    /// Takes in what has arrived; answers how long the socket is to be left alone.
    fn receive(&mut self, socket: &UdpSocket) -> Duration {
        self.tick();
        // One byte more than a datagram may have, so that a longer one is not mistaken for a valid one.
        let mut buffer = [0; MAX_LEN + 1];
        for _ in 0..BATCH {
            match socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let bytes = &buffer[..length];
                    match Message::open(&self.key, bytes) {
                        Some(message) => self.node.receive(&message, self.now, &mut self.outside),
                        None => debug!(%from, length, "not a probe of this swarm"),
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    warn!(%error, "receive a probe");
                    return ERROR_PAUSE;
                }
            }
        }
        Duration::ZERO
    }

    fn step(&mut self, socket: &UdpSocket) {
        self.tick();
        self.node.poll(self.now, &mut self.outside);
        self.knock();
        // What the kernel is to know goes first.
        let events = self.node.take_events();
        for event in &events {
            self.act(event);
        }
        for (node, up) in self.hosts.changes(self.node.alive(), self.now) {
            info!(node, up, "host of a marked peer");
            if up {
                self.outside.0.silent(node);
            } else {
                self.outside.0.mark(node, false);
            }
        }
        self.has_news |= !events.is_empty();
        self.send(socket);
        if self.now >= self.next_rtt {
            self.next_rtt = self.now + INTERVAL;
            self.told.rtt.send_replace(Arc::new(self.node.rtt()));
        }
    }

    fn act(&mut self, event: &Event) {
        match event {
            Event::Mark { node, alive } => {
                if !alive && self.hosts.mark(*node, self.now) {
                    self.outside.0.silent(*node);
                } else {
                    self.outside.0.mark(*node, *alive);
                }
                info!(node, alive, "peer mark changed");
            }
            Event::Lease {
                index,
                held,
                own_until,
            } => {
                let until = own_until.map(|until| u64::try_from(until.as_nanos()).unwrap_or(u64::MAX));
                self.outside.0.lease(*index, held, until);
            }
            Event::Withdrawn => {}
        }
    }

    /// Finds out whether silent peers are hosts without their agent.
    fn knock(&mut self) {
        for refused in self.knocker.refused() {
            let peer = self.addresses.iter().find(|(_, address)| **address == refused);
            if let Some((&peer, _)) = peer {
                self.hosts.refused(peer, self.now);
            }
        }
        if self.now < self.next_knock {
            return;
        }
        self.next_knock = self.now + INTERVAL;
        for peer in self.node.quiet(self.now) {
            if let Some(address) = self.addresses.get(&peer) {
                self.knocker.knock(*address);
            }
        }
    }

    /// What the socket does not take is a lost datagram like any other.
    fn send(&mut self, socket: &UdpSocket) {
        for message in self.node.take_out(self.now) {
            let receiver = message.envelope.receiver;
            let Some(address) = self.addresses.get(&receiver) else {
                continue;
            };
            if let Err(error) = socket.try_send_to(&message.seal(&self.key), *address) {
                debug!(peer = receiver, %address, %error, "send a probe");
            }
        }
    }

    fn publish(&mut self) {
        if !std::mem::take(&mut self.has_news) {
            return;
        }
        replace(&self.told.alive, self.node.alive());
        replace(&self.told.withdrawn, &self.node.withdrawn());
        let held = self.node.held();
        for (index, held) in &held {
            if self.told.held.borrow().get(index) != Some(held) {
                info!(address = index, holder = ?held.holder, reason = %held.reason, "holder of an ingress address");
            }
        }
        replace(&self.told.held, &held);
    }
}

fn replace<T: PartialEq + Clone>(sender: &watch::Sender<Arc<T>>, new: &T) {
    sender.send_if_modified(|current| {
        let changed = **current != *new;
        if changed {
            *current = Arc::new(new.clone());
        }
        changed
    });
}
