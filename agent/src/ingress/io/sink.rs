//! What follows at once from the probes' findings: marks and holders in the kernel, ARP for an address taken over.
//!
//! Called on the probes' thread, so nothing here waits: the map updates are single syscalls, the raw socket drops what it
//! cannot send, and faults go to the caretaker's log by a queue that drops as well.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use skep_ebpf_loader::Liveness;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::ingress::Grounds;
use crate::ingress::core::announce::{announcement, due};
use crate::ingress::core::place::Interface;
use crate::ingress::io::raw::RawSocket;
use crate::ingress::io::router::Answers;
use crate::probe::{Held, Sink};

/// The router is asked several times in this time.
const ROUTER_SILENCE: Duration = Duration::from_millis(650);

/// The sink of a node that is in a swarm.
pub struct NodeSink {
    pub liveness: Liveness,
    pub socket: RawSocket,
    pub grounds: watch::Receiver<Arc<Grounds>>,
    pub routers: watch::Receiver<Arc<Answers>>,
    /// In words, for the log.
    pub faults: mpsc::Sender<String>,
    /// Addresses that this node holds.
    pub announced: BTreeMap<u32, Announced>,
}

/// How far a take-over has been told.
#[derive(Debug, Clone, Copy)]
pub struct Announced {
    since: Instant,
    times: usize,
}

impl Sink for NodeSink {
    fn mark(&mut self, node: u32, alive: bool) {
        if let Err(error) = self.liveness.mark(node, alive) {
            self.fault(format!("node {node} not marked: {error}"));
        }
    }

    fn silent(&mut self, node: u32) {
        if let Err(error) = self.liveness.silent(node) {
            self.fault(format!("node {node} not marked as silent: {error}"));
        }
    }

    fn lease(&mut self, index: u32, held: &Held, own_until_ns: Option<u64>) {
        let grounds = self.grounds.borrow().clone();
        let Some(place) = grounds.places.get(&index) else {
            // The managers have removed it; the caretaker has told the kernel.
            self.announced.remove(&index);
            return;
        };
        if let Err(error) = self.liveness.hold(place.address, held.holder, own_until_ns) {
            self.fault(format!("holder of {} not told: {error}", place.address));
        }
        let (IpAddr::V4(address), Some(interface)) = (place.address, &place.interface) else {
            return;
        };
        if own_until_ns.is_none() {
            self.announced.remove(&index);
            return;
        }
        let now = Instant::now();
        let told = self
            .announced
            .entry(index)
            .or_insert(Announced { since: now, times: 0 });
        let times = told.times;
        // One announcement stands for all that are due by now.
        while due(told.times).is_some_and(|after| told.since + after <= now) {
            told.times += 1;
        }
        if told.times != times {
            self.announce(&grounds, interface, address);
        }
    }

    fn may_hold(&mut self, index: u32, alone: bool) -> bool {
        let grounds = self.grounds.borrow();
        let interface = grounds
            .places
            .get(&index)
            .and_then(|place| place.interface.as_ref());
        let Some(interface) = interface.filter(|interface| interface.carrier) else {
            return false;
        };
        let Some(router) = interface.router.filter(|_| alone) else {
            return true;
        };
        let answers = self.routers.borrow();
        let answered = answers.get(&(interface.index, router));
        answered.is_some_and(|at| at.elapsed() < ROUTER_SILENCE)
    }
}

impl NodeSink {
    fn announce(&self, grounds: &Grounds, interface: &Interface, address: std::net::Ipv4Addr) {
        let Some(device) = grounds.devices.get(&interface.index) else {
            return self.fault(format!(
                "{address} not announced: interface {} is gone",
                interface.name
            ));
        };
        for frame in announcement(interface.mac, address) {
            if let Err(error) = self.socket.send(device, &frame) {
                self.fault(format!("{address} not announced: {error}"));
            }
        }
    }

    fn fault(&self, text: String) {
        // A full queue already holds what is wrong.
        drop(self.faults.try_send(text));
    }
}
