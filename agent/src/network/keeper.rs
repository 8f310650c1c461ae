//! The task that owns the data plane and keeps the kernel equal to what it is told.
//!
//! It reads the desired items, the marks of the probes and the tasks that ended, the driver's endpoints and the node's
//! links, and writes the kernel's tables, the firewall, the guards of published ports, the table of the DNS server, and
//! what the probes are asked to watch. Whatever changes, it makes one whole pass; a pass that fails is made again with
//! the next tick. Marks reach the kernel's look-ups without it: see [`crate::ingress::io::sink`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use skep_control::model::{ItemKind, Items};
use skep_ebpf_loader::{Datapath, DatapathConfig, DropReason, FlowTables, Tables, UplinkEntry, max_flows};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::block_in_place;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::core::names;
use crate::ingress::Grounds;
use crate::ingress::core::place::{self, Places, places};
use crate::ingress::io::raw;
use crate::network::core::firewall::{FirewallInputs, dedicated, script};
use crate::network::core::ledger::{Local, parse_address};
use crate::network::core::links::{Snapshot, other_addresses, overlay_mtu, stand, uplinks};
use crate::network::core::ports::{Port, published_ports};
use crate::network::core::tables::{self, Inputs};
use crate::network::driver::{ApplyRequest, Driver};
use crate::network::io::guard::Guards;
use crate::network::io::links::NodeLinks;
use crate::network::io::{iptables, nft, sysctl};
use crate::network::lookout::Seen;
use crate::network::{
    Desired, MESH_ADDRESS, MESH_VNI, MESH_VNI_FORWARDED, NetworkConfig, NetworkError, RESOLVER, flows,
};
use crate::probe::{DEFAULT_PORT, Lease, Peer, Watched};

/// A pass that failed is made again, and a change that nobody told is seen.
const TICK: Duration = Duration::from_secs(5);
/// Changes of interfaces come in bursts, most of them our own.
const LINK_PAUSE: Duration = Duration::from_millis(100);

/// A question to the keeper.
#[derive(Debug)]
pub enum Question {
    Drops(oneshot::Sender<Result<Vec<(DropReason, u64)>, NetworkError>>),
    Stop {
        remove: bool,
        answer: oneshot::Sender<Vec<NetworkError>>,
    },
}

/// What the keeper listens to.
pub struct Sources {
    pub desired: watch::Receiver<Desired>,
    pub alive: watch::Receiver<Arc<BTreeMap<u32, bool>>>,
    /// By node: hashes of its tasks that it says have ended.
    pub withdrawn: watch::Receiver<Arc<BTreeMap<u32, BTreeSet<u64>>>>,
    /// What the caretaker of ingress addresses could not do.
    pub ingress_problems: watch::Receiver<Vec<String>>,
    pub locals: watch::Receiver<Arc<BTreeMap<String, Local>>>,
    pub link_changes: watch::Receiver<u64>,
    pub lookout: watch::Receiver<Seen>,
    pub applies: mpsc::Receiver<ApplyRequest>,
    pub questions: mpsc::Receiver<Question>,
}

/// What the keeper tells.
pub struct Sinks {
    pub applied: watch::Sender<u64>,
    pub problems: watch::Sender<Vec<String>>,
    pub dns: watch::Sender<Arc<skep_dns::Table>>,
    pub watched: watch::Sender<Arc<Watched>>,
    pub grounds: watch::Sender<Arc<Grounds>>,
    pub mtu: watch::Sender<u32>,
}

/// The owner of the node's data plane.
pub struct Keeper {
    pub config: NetworkConfig,
    pub driver: Driver,
    pub datapath: Datapath,
    pub flows: Arc<FlowTables>,
    pub links: NodeLinks,
    pub sources: Sources,
    pub sinks: Sinks,
    pub guards: Guards,
    /// Text of the nftables table in force; empty: unknown.
    pub firewall: String,
}

impl Keeper {
    /// Runs until it is told to stop or its network is dropped. Items whose sender is gone stay in force.
    pub async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut collector = std::pin::pin!(flows::collect(self.flows.clone()));
        let mut link_due = None;
        let mut fed = true;
        // Those who tell these stop before this task is told to.
        let (mut caring, mut watching) = (true, true);
        let mut waiting: Vec<ApplyRequest> = Vec::new();
        loop {
            tokio::select! {
                changed = self.sources.desired.changed(), if fed => if changed.is_err() {
                    fed = false;
                    continue;
                },
                changed = self.sources.alive.changed() => if changed.is_err() { break },
                changed = self.sources.withdrawn.changed() => if changed.is_err() { break },
                changed = self.sources.ingress_problems.changed(), if caring => caring = changed.is_ok(),
                changed = self.sources.locals.changed() => if changed.is_err() { break },
                changed = self.sources.link_changes.changed() => {
                    if changed.is_err() { break }
                    link_due.get_or_insert_with(|| Instant::now() + LINK_PAUSE);
                    continue;
                }
                () = sleep_until(link_due.unwrap_or_else(Instant::now)), if link_due.is_some() => {}
                request = self.sources.applies.recv() => match request {
                    Some(request) => waiting.push(request),
                    None => break,
                },
                question = self.sources.questions.recv() => match question {
                    Some(Question::Stop { remove, answer }) => {
                        let errors = self.stop(remove).await;
                        if answer.send(errors).is_err() {
                            tracing::debug!("nobody waited for the network's stop");
                        }
                        return;
                    }
                    Some(question) => { self.answer(question); continue }
                    None => break,
                },
                changed = self.sources.lookout.changed(), if watching => {
                    watching = changed.is_ok();
                    if self.sources.lookout.borrow_and_update().table_is_gone {
                        self.firewall.clear();
                    }
                }
                _ = tick.tick() => {}
                never = &mut collector => match never {},
            }
            // One pass serves all that wait.
            while let Ok(request) = self.sources.applies.try_recv() {
                waiting.push(request);
            }
            link_due = None;
            let result = self.pass().await;
            let answer = result.map_err(|error| error.to_string());
            for request in waiting.drain(..) {
                // Who asked may have given up waiting.
                drop(request.send(answer.clone()));
            }
        }
    }

    /// Makes everything equal to what stands now, and tells how far it came.
    async fn pass(&mut self) -> Result<(), NetworkError> {
        let began = Instant::now();
        let desired = self.sources.desired.borrow_and_update().clone();
        let mut problems = Vec::new();
        let result = self.apply(&desired, &mut problems).await;
        if let Err(error) = &result {
            tracing::warn!(%error, index = desired.index, "network pass failed");
            problems.push(error.to_string());
        }
        problems.sort();
        problems.dedup();
        self.sinks.problems.send_if_modified(|old| {
            let new = *old != problems;
            if new {
                *old = problems;
            }
            new
        });
        tracing::debug!(index = desired.index, took = ?began.elapsed(), "network pass");
        // Last, so that who waits for the index finds the problems that came with it.
        if result.is_ok() {
            self.sinks.applied.send_replace(desired.index);
        }
        result
    }

    async fn apply(&mut self, desired: &Desired, problems: &mut Vec<String>) -> Result<(), NetworkError> {
        self.tell_ended(desired);
        self.sources.link_changes.mark_unchanged();
        let snapshot = self.driver.prune().await?;
        let alive = self.sources.alive.borrow_and_update().clone();
        let withdrawn = self.withdrawn(desired);
        self.keep_links(&snapshot, problems).await?;
        let places = self.ground(&desired.items, &snapshot, problems);
        let locals = self.sources.locals.borrow_and_update().clone();
        let uplinks = uplinks(&snapshot, self.config.data_path_address);
        let held = self.guard(&desired.items, &uplinks, problems);
        let mtu = *self.sinks.mtu.borrow();
        let inputs = Inputs {
            items: &desired.items,
            alive: &alive,
            locals: &locals,
            uplinks: &uplinks,
            held: &held,
            withdrawn: &withdrawn,
            places: &places,
            self_index: self.config.self_index,
            mtu,
        };
        let mut built = tables::build(&inputs);
        built.tables.other_addresses = other_addresses(&snapshot, &uplinks);
        problems.extend(built.problems);
        let report = block_in_place(|| self.datapath.sync(&built.tables))?;
        problems.extend(
            report.refused.iter().map(|(port, reason)| {
                format!("published port {port} is not up to date on this node: {reason}")
            }),
        );
        problems.extend(report.sockets.iter().map(ToString::to_string));
        let mut failed = report.failed.into_iter();
        let attached = failed.try_for_each(|(ifindex, reason)| {
            self.not_attached(ifindex, reason, &locals, &snapshot, problems)
        });
        let dns = names::table(&tables::visible(&inputs), &[]);
        self.sinks.dns.send_replace(Arc::new(dns));
        self.sinks
            .watched
            .send_if_modified(|old| replace_if_new(old, watched(desired)));
        self.keep_firewall(desired, &built.tables, &locals, &held, problems)
            .await?;
        attached
    }

    /// A container whose packets no program sees must not start; an uplink without a program is a problem of the node; an
    /// interface that has gone meanwhile is none.
    fn not_attached(
        &self,
        ifindex: u32,
        reason: String,
        locals: &BTreeMap<String, Local>,
        snapshot: &Snapshot,
        problems: &mut Vec<String>,
    ) -> Result<(), NetworkError> {
        let Some(link) = snapshot.links.iter().find(|link| link.index == ifindex) else {
            return Ok(());
        };
        let name = link.name.clone();
        if locals.values().any(|local| local.ifindex == ifindex) {
            return Err(NetworkError::NotAttached { name, reason });
        }
        problems.push(format!(
            "published ports do not work on interface {name}: {reason}"
        ));
        Ok(())
    }

    /// Peers hear of ended tasks first of all: they lead packets to them until then.
    fn tell_ended(&self, desired: &Desired) {
        self.sinks.watched.send_if_modified(|watched| {
            let is_new = watched.withdrawn != *desired.ended;
            if is_new {
                Arc::make_mut(watched).withdrawn = desired.ended.as_ref().clone();
            }
            is_new
        });
    }

    /// What the peers say of their tasks, and this node of its own.
    fn withdrawn(&mut self, desired: &Desired) -> BTreeMap<u32, BTreeSet<u64>> {
        let mut withdrawn = self.sources.withdrawn.borrow_and_update().as_ref().clone();
        withdrawn.insert(self.config.self_index, desired.ended.as_ref().clone());
        withdrawn
    }

    /// Finds the interfaces of the ingress addresses; before the probes hear of the leases.
    fn ground(&mut self, items: &Items, snapshot: &Snapshot, problems: &mut Vec<String>) -> Places {
        problems.extend(self.sources.ingress_problems.borrow_and_update().clone());
        let (data_path_address, self_index) = (self.config.data_path_address, self.config.self_index);
        let (places, wrong) = places(items, snapshot, data_path_address, self_index);
        problems.extend(wrong);
        if self.sinks.grounds.borrow().places != places {
            match raw::devices() {
                Ok(devices) => {
                    let places = places.clone();
                    self.sinks
                        .grounds
                        .send_replace(Arc::new(Grounds { places, devices }));
                }
                Err(error) => problems.push(format!("ingress addresses: {error}")),
            }
        }
        places
    }

    /// Sees to it that the node's interfaces stand as the data plane was told, and follows the underlay's MTU.
    async fn keep_links(
        &mut self,
        snapshot: &Snapshot,
        problems: &mut Vec<String>,
    ) -> Result<(), NetworkError> {
        let Some(underlay) = snapshot.by_address(self.config.data_path_address) else {
            problems.push(format!(
                "no interface of this node has the data path address {}",
                self.config.data_path_address
            ));
            return Ok(());
        };
        let mtu = overlay_mtu(underlay.mtu, self.config.data_path_address);
        let NodeLinks {
            vxlan,
            host,
            host_peer,
        } = self.links;
        if stand(snapshot, [vxlan, host, host_peer], mtu, RESOLVER) {
            return Ok(());
        }
        let node_address = self.node_address()?;
        let links = self
            .driver
            .links()
            .ensure_node_links(
                self.config.data_path_port,
                mtu,
                MESH_ADDRESS,
                node_address,
                RESOLVER,
            )
            .await?;
        self.sinks.mtu.send_if_modified(|old| replace_if_new(old, mtu));
        if links != self.links {
            tracing::warn!("the node's interfaces were made anew; the data plane is attached again");
            let config = datapath_config(&self.config, links);
            let hook = self.config.hook;
            self.datapath = block_in_place(|| Datapath::open_at(config, hook))?;
            self.links = links;
        }
        Ok(())
    }

    /// Holds the published ports; answers those that another process has.
    fn guard(
        &mut self,
        items: &Items,
        uplinks: &[UplinkEntry],
        problems: &mut Vec<String>,
    ) -> BTreeSet<Port> {
        let own: Vec<IpAddr> = uplinks
            .iter()
            .flat_map(|uplink| uplink.addresses.iter().copied())
            .collect();
        let failed = self.guards.hold(&published_ports(items), &own);
        for (port, error) in &failed {
            problems.push(format!(
                "published port {port} does not work on this node: {error}"
            ));
        }
        failed.into_keys().collect()
    }

    fn node_address(&self) -> Result<Ipv4Addr, NetworkError> {
        match self.config.data_path_address {
            IpAddr::V4(address) => Ok(address),
            address => Err(NetworkError::NotIpv4(address)),
        }
    }

    async fn keep_firewall(
        &mut self,
        desired: &Desired,
        tables: &Tables,
        locals: &BTreeMap<String, Local>,
        held: &BTreeSet<Port>,
        problems: &mut Vec<String>,
    ) -> Result<(), NetworkError> {
        let node_address = self.node_address()?;
        let ports = published_ports(&desired.items)
            .difference(held)
            .copied()
            .collect();
        let text = script(&FirewallInputs {
            ports: &ports,
            dedicated: dedicated(tables),
            locals: locals.values().collect(),
            mesh_address: MESH_ADDRESS,
            node_address,
        });
        problems.extend(self.sources.lookout.borrow().problem.clone());
        if text != self.firewall {
            self.firewall.clear();
            nft::apply(&text).await?;
            self.firewall = text;
        }
        if !locals.is_empty() && !sysctl::is_forwarding()? {
            problems.push("net.ipv4.ip_forward is 0: containers do not reach the outside".to_string());
        }
        Ok(())
    }

    fn answer(&self, question: Question) {
        let told = match question {
            Question::Drops(answer) => answer.send(self.datapath.drops().map_err(Into::into)).is_ok(),
            Question::Stop { .. } => true,
        };
        if !told {
            tracing::debug!("a question to the network was given up");
        }
    }

    /// Lets go, or removes everything; collects all errors and goes on.
    async fn stop(self, remove: bool) -> Vec<NetworkError> {
        let mut errors: Vec<NetworkError> = Vec::new();
        self.driver.set_plane(None);
        if remove {
            errors.extend(self.driver.unplug_all().await.err().map(Into::into));
        }
        errors.extend(
            block_in_place(|| self.datapath.close(remove))
                .err()
                .map(Into::into),
        );
        if remove {
            errors.extend(nft::remove().await.err().map(Into::into));
            errors.extend(iptables::remove().await.err().map(Into::into));
            errors.extend(
                self.driver
                    .links()
                    .remove_node_links()
                    .await
                    .err()
                    .map(Into::into),
            );
        }
        errors
    }
}

/// What the data plane is told once.
pub fn datapath_config(config: &NetworkConfig, links: NodeLinks) -> DatapathConfig {
    DatapathConfig {
        pin_dir: config.pin_dir.clone(),
        vxlan_ifindex: links.vxlan,
        host_ifindex: links.host_peer,
        host_peer_ifindex: links.host,
        node_index: config.self_index,
        mesh_vni: MESH_VNI,
        mesh_vni_forwarded: MESH_VNI_FORWARDED,
        resolver: RESOLVER,
        mesh_address: MESH_ADDRESS,
        max_flows: max_flows(config.memory),
    }
}

/// What the probes are told.
fn watched(desired: &Desired) -> Arc<Watched> {
    let kinds = desired.items.values().filter_map(|item| item.kind.as_ref());
    let peers = kinds.filter_map(|kind| match kind {
        ItemKind::Peer(peer) => Some(Peer {
            index: peer.index,
            address: (parse_address(&peer.underlay)?, DEFAULT_PORT).into(),
        }),
        _ => None,
    });
    let leases = place::addresses(&desired.items).map(|item| Lease {
        index: item.index,
        epoch: item.epoch,
        owners: item.owners.clone(),
        observers: item.observers.clone(),
    });
    Arc::new(Watched {
        peers: peers.collect(),
        leases: leases.collect(),
        withdrawn: desired.ended.as_ref().clone(),
    })
}

fn replace_if_new<T: PartialEq>(old: &mut T, new: T) -> bool {
    let changed = *old != new;
    if changed {
        *old = new;
    }
    changed
}
