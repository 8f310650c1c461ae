//! The task that carries out what follows from holding an address and may take a while: the address on the interface,
//! the hook, log lines; and that takes back the marks of an agent before this one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_ebpf_loader::Liveness;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::ingress::Grounds;
use crate::ingress::core::carry::{Change, changes};
use crate::ingress::core::place::Places;
use crate::ingress::core::shown::node_name;
use crate::ingress::io::hook;
use crate::ingress::io::interfaces::{InterfaceError, Interfaces};
use crate::network::Desired;
use crate::probe::Held;

/// Addresses live three times as long.
const RENEW: Duration = Duration::from_secs(3);
/// Take-overs that wait for the hook at most; more are told as a problem.
const HOOKS: usize = 64;
/// The kernel answers at once unless something is badly wrong.
const GOODBYE: Duration = Duration::from_secs(2);

/// What the task listens to.
pub struct Sources {
    pub desired: watch::Receiver<Desired>,
    pub grounds: watch::Receiver<Arc<Grounds>>,
    pub held: watch::Receiver<Arc<BTreeMap<u32, Held>>>,
    pub alive: watch::Receiver<Arc<BTreeMap<u32, bool>>>,
    pub rtt: watch::Receiver<Arc<BTreeMap<u32, Duration>>>,
    /// Of the sink, in words.
    pub faults: mpsc::Receiver<String>,
}

/// The running task.
#[derive(Debug)]
pub struct Caretaker {
    stop: oneshot::Sender<bool>,
    task: JoinHandle<()>,
    problems: watch::Receiver<Vec<String>>,
}

impl Caretaker {
    /// # Errors
    /// When the kernel gives no socket, or the marks cannot be read.
    pub fn start(
        self_index: u32,
        hook: Option<PathBuf>,
        sources: Sources,
        liveness: Liveness,
    ) -> Result<Self, crate::network::NetworkError> {
        let (stop, stopped) = oneshot::channel();
        let (problems_sender, problems) = watch::channel(Vec::new());
        let takeovers = hook.map(|hook| {
            let (sender, queue) = mpsc::channel(HOOKS);
            tokio::spawn(run_hooks(hook, queue, problems_sender.clone()));
            sender
        });
        let care = Care {
            self_index,
            stale: liveness.marked()?,
            sources,
            liveness,
            interfaces: Interfaces::open()?,
            known: Places::new(),
            own: BTreeSet::new(),
            takeovers,
            problems: problems_sender,
        };
        let task = tokio::spawn(care.run(stopped));
        Ok(Self { stop, task, problems })
    }

    /// What did not work, in words.
    pub fn problems(&self) -> watch::Receiver<Vec<String>> {
        self.problems.clone()
    }

    /// Puts all addresses down. `remove`: routes as well.
    pub async fn stop(mut self, remove: bool) {
        if self.stop.send(remove).is_err() || timeout(GOODBYE, &mut self.task).await.is_err() {
            tracing::warn!("ingress addresses stay on the interfaces until they expire");
            self.task.abort();
        }
    }
}

/// A take-over, as the hook is told.
struct TakeOver {
    address: String,
    old: String,
    new: String,
}

struct Care {
    self_index: u32,
    sources: Sources,
    liveness: Liveness,
    interfaces: Interfaces,
    /// Places the kernel may have holders of.
    known: Places,
    /// Indexes of leases this node held when it last looked.
    own: BTreeSet<u32>,
    /// Marks of an agent before this one, of which the probes have not said anything yet.
    stale: BTreeSet<u32>,
    takeovers: Option<mpsc::Sender<TakeOver>>,
    problems: watch::Sender<Vec<String>>,
}

impl Care {
    async fn run(mut self, mut stopped: oneshot::Receiver<bool>) {
        let mut renew = interval(RENEW);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A sender that is gone only leaves its last value in force.
        let (mut holding, mut grounded) = (true, true);
        let remove = loop {
            tokio::select! {
                stop = &mut stopped => break stop.unwrap_or(false),
                changed = self.sources.held.changed(), if holding => holding = changed.is_ok(),
                changed = self.sources.grounds.changed(), if grounded => grounded = changed.is_ok(),
                Some(fault) = self.sources.faults.recv() => {
                    tracing::warn!(fault, "ingress");
                    continue;
                }
                changed = self.sources.rtt.changed(), if !self.stale.is_empty() => {
                    if changed.is_err() {
                        self.stale.clear();
                    }
                    self.take_marks_back();
                    continue;
                }
                _ = renew.tick() => {}
            }
            self.look();
            self.carry(&self.known, &self.own).await;
        };
        let places = if remove { Places::new() } else { self.known.clone() };
        self.carry(&places, &BTreeSet::new()).await;
    }

    /// Learns what this node holds, and tells the hook what is new.
    fn look(&mut self) {
        let places = self.sources.grounds.borrow_and_update().places.clone();
        for (index, old) in &self.known {
            if places.get(index).is_none_or(|place| place.address != old.address)
                && let Err(error) = self.liveness.forget(old.address)
            {
                tracing::warn!(%error, address = %old.address, "holder not forgotten");
            }
        }
        let held = self.sources.held.borrow_and_update().clone();
        let mut own = BTreeSet::new();
        for (&index, place) in &places {
            let Some(held) = held
                .get(&index)
                .filter(|held| held.holder == Some(self.self_index))
            else {
                continue;
            };
            own.insert(index);
            if !self.own.contains(&index) {
                tracing::info!(address = %place.address, reason = %held.reason, "this node holds the address now");
                self.tell_hook(&place.address.to_string(), held);
            }
        }
        for index in self.own.difference(&own) {
            if let Some(place) = places.get(index) {
                let reason = held.get(index).map(|held| held.reason.to_string());
                tracing::info!(address = %place.address, reason, "this node holds the address no more");
            }
        }
        (self.known, self.own) = (places, own);
    }

    fn tell_hook(&self, address: &str, held: &Held) {
        let Some(takeovers) = &self.takeovers else { return };
        let items = self.sources.desired.borrow().items.clone();
        let name = |node| node_name(&items, node).unwrap_or_else(|| "-".to_string());
        let takeover = TakeOver {
            address: address.to_string(),
            old: held.previous.map_or_else(|| "-".to_string(), name),
            new: name(self.self_index),
        };
        if takeovers.try_send(takeover).is_err() {
            let problem = format!("ingress hook for {address} was not run: too many take-overs wait");
            self.problems.send_modify(|problems| problems.push(problem));
        }
    }

    async fn carry(&self, places: &Places, own: &BTreeSet<u32>) {
        if let Err(error) = self.try_carry(places, own).await {
            tracing::warn!(%error, "ingress addresses on the interfaces");
        }
    }

    /// # Errors
    /// The first change that was refused; the others are made.
    async fn try_carry(&self, places: &Places, own: &BTreeSet<u32>) -> Result<(), InterfaceError> {
        let standing = self.interfaces.standing().await?;
        let mut result = Ok(());
        for change in changes(places, own, &standing) {
            let is_news = match change {
                Change::Carry(at, address) => !standing.addresses.contains(&(at, address)),
                _ => true,
            };
            if is_news {
                tracing::debug!(?change, "ingress");
            }
            result = result.and(self.interfaces.make(change).await);
        }
        result
    }

    /// A mark in the kernel outlives its agent. Once the node answers, or is marked by our own probes, it is settled.
    fn take_marks_back(&mut self) {
        let rtt = self.sources.rtt.borrow_and_update().clone();
        let alive = self.sources.alive.borrow().clone();
        for node in self.stale.clone() {
            if alive.get(&node) == Some(&false) {
                self.stale.remove(&node);
            } else if rtt.contains_key(&node) {
                self.stale.remove(&node);
                if let Err(error) = self.liveness.mark(node, true) {
                    tracing::warn!(node, %error, "an old mark stays");
                }
            }
        }
    }
}

/// One after the other, so that the last take-over is what the network was told last.
async fn run_hooks(hook: PathBuf, mut queue: mpsc::Receiver<TakeOver>, problems: watch::Sender<Vec<String>>) {
    let mut failed: BTreeMap<String, String> = BTreeMap::new();
    while let Some(TakeOver { address, old, new }) = queue.recv().await {
        tracing::info!(address, old, new, "ingress hook");
        match hook::run(&hook, [&address, &old, &new]).await {
            Ok(()) => {
                failed.remove(&address);
            }
            Err(error) => {
                tracing::warn!(address, %error, "ingress hook");
                let problem = format!("ingress hook for {address}: {error}");
                failed.insert(address, problem);
            }
        }
        problems.send_replace(failed.values().cloned().collect());
    }
}
