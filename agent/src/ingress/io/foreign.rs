//! The task that sends datagrams with another node's source address, and listens for those of the others.
//!
//! They are received by a packet socket: a node that drops them itself (rp_filter) could still be a client's path, and
//! what is asked is what the network does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ring::hmac;
use skep_control::model::{Dsr, ItemKind, Items};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::ingress::core::foreign::{Foreign, LENGTH, MAGIC, PERIOD, packet, sender};
use crate::ingress::core::shown::node_name;
use crate::network::Desired;
use crate::network::core::ledger::parse_address;
use crate::probe::DEFAULT_PORT;

/// Before the sockets are opened again after an error.
const PAUSE: Duration = Duration::from_secs(60);
const ETHERTYPE_IPV4: u16 = 0x0800;

#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    #[error("open a raw socket to {purpose}: {source}")]
    Open {
        purpose: &'static str,
        source: io::Error,
    },
    #[error("receive packets with a foreign source: {0}")]
    Receive(#[source] io::Error),
}

/// What was found: goes into the node's description.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finding {
    pub dsr: i32,
    /// In words, where packets are dropped.
    pub text: String,
}

/// What the task works with.
pub struct Setup {
    pub self_index: u32,
    pub key: [u8; 32],
    pub desired: watch::Receiver<Desired>,
    pub alive: watch::Receiver<Arc<BTreeMap<u32, bool>>>,
    pub rtt: watch::Receiver<Arc<BTreeMap<u32, Duration>>>,
    pub finding: watch::Sender<Finding>,
}

/// Runs until it is dropped.
pub async fn run(setup: Setup) {
    loop {
        if let Err(error) = watch_and_send(&setup).await {
            tracing::warn!(%error, "whether dsr would work is not known");
            sleep(PAUSE).await;
        }
    }
}

async fn watch_and_send(setup: &Setup) -> Result<(), ForeignError> {
    let (outgoing, incoming) = (sending()?, receiving()?);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &setup.key);
    let began = Instant::now();
    let mut foreign = Foreign::default();
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = began.elapsed();
        let mut buffer = [0; LENGTH];
        while let Some(length) = receive(&incoming, &mut buffer)? {
            if let Some(node) = sender(&key, setup.self_index, &buffer[..length]) {
                foreign.hear(node, now);
            }
        }
        let items = setup.desired.borrow().items.clone();
        let answering = answering(setup);
        let (verdict, missing) = foreign.judge(&answering, now);
        let finding = finding(&items, verdict, &missing);
        setup.finding.send_if_modified(|old| {
            let is_new = *old != finding;
            *old = finding;
            is_new
        });
        for (to, address) in peers(&items).filter(|(node, _)| answering.contains(node)) {
            let source = disguise(&items, setup.self_index, to).unwrap_or(address);
            let packet = packet(&key, (setup.self_index, source), (to, address), DEFAULT_PORT);
            let target = SocketAddr::from((address, 0));
            if let Err(error) = outgoing.send_to(&packet, &target.into()) {
                tracing::debug!(%error, node = to, "send a packet with a foreign source");
            }
        }
    }
}

/// Nodes that are not marked and have answered a probe.
fn answering(setup: &Setup) -> BTreeSet<u32> {
    let alive = setup.alive.borrow().clone();
    let rtt = setup.rtt.borrow().clone();
    let answering = rtt.keys().copied();
    answering
        .filter(|node| alive.get(node).copied().unwrap_or(false))
        .collect()
}

fn finding(items: &Items, verdict: Dsr, missing: &BTreeSet<u32>) -> Finding {
    let names: Vec<String> = missing
        .iter()
        .map(|&node| node_name(items, node).unwrap_or_else(|| format!("node {node}")))
        .collect();
    let text = match verdict {
        Dsr::Dropped => format!(
            "packets with another node's source address from {} do not arrive",
            names.join(", ")
        ),
        Dsr::Unknown | Dsr::Works => String::new(),
    };
    Finding {
        dsr: verdict as i32,
        text,
    }
}

fn peers(items: &Items) -> impl Iterator<Item = (u32, Ipv4Addr)> {
    items.values().filter_map(|item| match &item.kind {
        Some(ItemKind::Peer(peer)) => match parse_address(&peer.underlay)? {
            IpAddr::V4(address) => Some((peer.index, address)),
            IpAddr::V6(_) => None,
        },
        _ => None,
    })
}

/// An address of the same links that is neither end's; in a swarm of two there is only the receiver's own.
fn disguise(items: &Items, own: u32, to: u32) -> Option<Ipv4Addr> {
    let mut others = peers(items).filter(|&(node, _)| node != own && node != to);
    others.next().map(|(_, address)| address)
}

fn sending() -> Result<Socket, ForeignError> {
    let open = || {
        // IPPROTO_RAW: the IP header is ours (raw(7)).
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    open().map_err(|source| ForeignError::Open {
        purpose: "send packets with a foreign source",
        source,
    })
}

fn receiving() -> Result<Socket, ForeignError> {
    let open = || {
        let protocol = Protocol::from(i32::from(ETHERTYPE_IPV4.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket.attach_filter(&filter())?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    open().map_err(|source| ForeignError::Open {
        purpose: "receive packets with a foreign source",
        source,
    })
}

/// Classic BPF on the IP packet: UDP to the probes' port with our first bytes; all else is the kernel's affair.
fn filter() -> [SockFilter; 9] {
    let load = |size: u32, mode: u32| (libc::BPF_LD | size | mode) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    [
        SockFilter::new(load(libc::BPF_B, libc::BPF_ABS), 0, 0, 9),
        SockFilter::new(equal, 0, 5, libc::IPPROTO_UDP as u32),
        SockFilter::new((libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16, 0, 0, 0),
        SockFilter::new(load(libc::BPF_W, libc::BPF_IND), 0, 0, 8),
        SockFilter::new(equal, 0, 2, MAGIC),
        SockFilter::new(load(libc::BPF_H, libc::BPF_IND), 0, 0, 2),
        SockFilter::new(equal, 1, 0, u32::from(DEFAULT_PORT)),
        SockFilter::new(answer, 0, 0, 0),
        SockFilter::new(answer, 0, 0, u32::MAX),
    ]
}

/// `None`: nothing is there now.
fn receive(socket: &Socket, buffer: &mut [u8]) -> Result<Option<usize>, ForeignError> {
    use std::io::Read;
    match (&*socket).read(buffer) {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(ForeignError::Receive(error)),
    }
}
