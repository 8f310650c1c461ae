//! The data plane of one node as its agent sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use aya::Ebpf;
use nix::time::{ClockId, clock_gettime};
use skep_ebpf_common::state::{is_established, is_over, lifetime_s};
use skep_ebpf_common::{
    Config, DropReason, FLOW_MESH, FlowValue, LAYOUT, MAX_ROWS, MAX_TASKS, PublishedKey, PublishedValue,
};

use crate::core::contents::{Contents, address, contents, published_tasks};
use crate::core::{regions, rows};
use crate::io::attach::{self, AttachError, Hook, Place, Program};
use crate::io::bpffs::{self, BpffsError};
use crate::io::device::{self, DeviceError};
use crate::io::kernel;
use crate::io::maps::{Maps, MapsError};
use crate::io::object::{self, ObjectError};
use crate::io::test_run::{self, TestOutcome, TestPacket, TestRunError};
use crate::tables::{Counters, DatapathConfig, FlowReport, PublishedEntry, SyncReport, Tables};

/// What can go wrong between the agent and the kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatapathError {
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    TestRun(#[from] TestRunError),
    #[error("node {0} is not in the tables")]
    NoSuchNode(u32),
    #[error("published port {port}: row algorithm {algorithm} is not known to this version")]
    Algorithm { port: u16, algorithm: u32 },
    #[error("published port {port}: 2^{rows_log2} rows are outside of 2^4 to 2^14")]
    Rows { port: u16, rows_log2: u8 },
    #[error("published port {port}: no room left in the table of {table}")]
    Full { port: u16, table: &'static str },
    #[error("read the monotonic clock: {0}")]
    Clock(#[source] std::io::Error),
    #[error("{} pins could not be removed, first: {first}", more + 1)]
    Close { first: Box<DatapathError>, more: usize },
}

/// Loaded, attached and pinned programs and maps of this node. All calls belong into the node's network namespace.
pub struct Datapath {
    config: DatapathConfig,
    pins: PathBuf,
    object: Ebpf,
    maps: Maps,
    attached: BTreeSet<Place>,
    hook: Hook,
    /// What the published ports in the kernel were made from; empty after a restart, then they are made anew.
    published: BTreeMap<PublishedKey, PublishedEntry>,
    next_row: u32,
    next_task: u32,
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath")
            .field("pins", &self.pins)
            .field("attached", &self.attached)
            .finish_non_exhaustive()
    }
}

impl Datapath {
    /// Loads the programs, or takes over the pinned ones: maps are kept as they are, programs replaced in place.
    ///
    /// # Errors
    /// See [`DatapathError`]. What was pinned already stays and goes on forwarding.
    pub fn open(config: DatapathConfig) -> Result<Self, DatapathError> {
        Self::open_at(config, kernel::hook())
    }

    /// [`Datapath::open`] with a choice that the kernel's version makes otherwise.
    ///
    /// # Errors
    /// As [`Datapath::open`].
    pub fn open_at(config: DatapathConfig, hook: Hook) -> Result<Self, DatapathError> {
        bpffs::prepare(&config.pin_dir)?;
        let pins = config.pin_dir.join(format!("v{LAYOUT}"));
        bpffs::prepare(&pins)?;
        let constants = Config {
            node: config.node_index,
            vxlan_ifindex: config.vxlan_ifindex,
            host_ifindex: config.host_ifindex,
            mesh_vni: config.mesh_vni,
            mesh_vni_forwarded: config.mesh_vni_forwarded,
            resolver_be: u32::from_ne_bytes(config.resolver.octets()),
            mesh_address_be: u32::from_ne_bytes(config.mesh_address.octets()),
            host_mac: device::mac(config.host_peer_ifindex)?,
            pad: 0,
        };
        let mut object = object::load(&pins, &constants, config.max_flows)?;
        let maps = Maps::open(&mut object)?;
        let attached = attach::attached(&pins)?.into_iter().collect();
        let mut datapath = Self {
            config,
            pins,
            object,
            maps,
            attached,
            hook,
            published: BTreeMap::new(),
            next_row: 0,
            next_task: 0,
        };
        datapath.take_over()?;
        Ok(datapath)
    }

    /// New programs into all pinned links; links of interfaces that are gone are swept.
    fn take_over(&mut self) -> Result<(), DatapathError> {
        let fixed = self.fixed_places();
        let other: Vec<Place> = self.attached.difference(&fixed).copied().collect();
        for place in other {
            if let Err(error) = attach::attach(&mut self.object, &self.pins, place, self.hook) {
                tracing::debug!(?place, %error, "link of a vanished interface");
                attach::detach(&self.pins, place, self.hook)?;
                self.attached.remove(&place);
            }
        }
        for place in fixed {
            attach::attach(&mut self.object, &self.pins, place, self.hook)?;
            self.attached.insert(place);
        }
        Ok(())
    }

    fn fixed_places(&self) -> BTreeSet<Place> {
        BTreeSet::from([
            Place {
                program: Program::Overlay,
                ifindex: self.config.vxlan_ifindex,
            },
            Place {
                program: Program::Host,
                ifindex: self.config.host_ifindex,
            },
        ])
    }

    /// Makes the kernel's maps and attachments equal to `tables`; additions before removals.
    ///
    /// # Errors
    /// Stops at the first map that cannot be written; a later call with the same tables goes on from there. Interfaces
    /// that cannot be attached are no error but stand in the report.
    pub fn sync(&mut self, tables: &Tables) -> Result<SyncReport, DatapathError> {
        let mut report = SyncReport::default();
        let wanted = contents(tables, &self.maps.endpoints.held);
        report.written += self.add(&wanted)?;
        report.written += self.publish(tables)?;
        self.place(tables, &mut report)?;
        report.removed += self.withdraw(tables)?;
        report.removed += self.prune(&wanted)?;
        Ok(report)
    }

    /// What is looked up is there before what points to it.
    fn add(&mut self, wanted: &Contents) -> Result<usize, DatapathError> {
        let maps = &mut self.maps;
        Ok(maps.nodes.add(&wanted.nodes)?
            + maps.peers.add(&wanted.peers)?
            + maps.networks.add(&wanted.networks)?
            + maps.backends.add(&wanted.backends)?
            + maps.endpoints.add(&wanted.endpoints)?
            + maps.sources.add(&wanted.sources)?
            + maps.interfaces.add(&wanted.interfaces)?
            + maps.own_addresses.add(&wanted.own_addresses)?)
    }

    fn prune(&mut self, wanted: &Contents) -> Result<usize, DatapathError> {
        let maps = &mut self.maps;
        Ok(maps.own_addresses.prune(&wanted.own_addresses)?
            + maps.interfaces.prune(&wanted.interfaces)?
            + maps.sources.prune(&wanted.sources)?
            + maps.endpoints.prune(&wanted.endpoints)?
            + maps.backends.prune(&wanted.backends)?
            + maps.networks.prune(&wanted.networks)?
            + maps.peers.prune(&wanted.peers)?
            + maps.nodes.prune(&wanted.nodes)?)
    }

    fn place(&mut self, tables: &Tables, report: &mut SyncReport) -> Result<(), DatapathError> {
        let mut wanted = self.fixed_places();
        wanted.extend(tables.endpoints.iter().filter_map(|e| e.local).map(|l| Place {
            program: Program::Container,
            ifindex: l.ifindex,
        }));
        wanted.extend(tables.uplinks.iter().map(|u| Place {
            program: Program::Uplink,
            ifindex: u.ifindex,
        }));
        let missing: Vec<Place> = wanted.difference(&self.attached).copied().collect();
        for place in missing {
            match attach::attach(&mut self.object, &self.pins, place, self.hook) {
                Ok(()) => {
                    self.attached.insert(place);
                    report.attached.push(place.ifindex);
                }
                Err(error) => report.failed.push((place.ifindex, error.to_string())),
            }
        }
        let unwanted: Vec<Place> = self.attached.difference(&wanted).copied().collect();
        for place in unwanted {
            attach::detach(&self.pins, place, self.hook)?;
            self.attached.remove(&place);
            report.detached.push(place.ifindex);
        }
        Ok(())
    }

    /// Writes new tables of ports beside the old ones and then points to them, so that a packet sees one or the other.
    fn publish(&mut self, tables: &Tables) -> Result<usize, DatapathError> {
        let mut written = 0;
        for entry in &tables.published {
            let key = published_key(entry);
            if self.published.get(&key) == Some(entry) {
                continue;
            }
            check(entry)?;
            let (tasks, candidates) = published_tasks(entry);
            let rows = rows::build(entry.seed, entry.rows_log2, &candidates);
            let rows_base = self.room_for_rows(entry, rows.len() as u32)?;
            let tasks_base = self.room_for_tasks(entry, tasks.len() as u32)?;
            self.maps.write_tasks(tasks_base, &tasks)?;
            self.maps.write_rows(rows_base, &rows)?;
            let value = PublishedValue {
                seed: entry.seed,
                rows_base,
                rows_mask: rows.len() as u32 - 1,
                tasks_base,
                tasks: tasks.len() as u32,
                network: entry.ingress_vni,
                algorithm: entry.algorithm,
                target_port_be: entry.target_port.to_be(),
                pad: 0,
                spare: 0,
            };
            self.maps.published.write(key, value)?;
            self.published.insert(key, entry.clone());
            written += 1;
        }
        Ok(written)
    }

    fn room_for_rows(&mut self, entry: &PublishedEntry, length: u32) -> Result<u32, DatapathError> {
        let in_use: Vec<(u32, u32)> = self
            .maps
            .published
            .held
            .values()
            .map(|v| (v.rows_base, v.rows_mask + 1))
            .collect();
        let base = regions::find(&in_use, MAX_ROWS, length, self.next_row).ok_or(DatapathError::Full {
            port: entry.published_port,
            table: "rows",
        })?;
        self.next_row = base + length;
        Ok(base)
    }

    fn room_for_tasks(&mut self, entry: &PublishedEntry, length: u32) -> Result<u32, DatapathError> {
        let in_use: Vec<(u32, u32)> = self
            .maps
            .published
            .held
            .values()
            .map(|v| (v.tasks_base, v.tasks))
            .collect();
        let base = regions::find(&in_use, MAX_TASKS, length, self.next_task).ok_or(DatapathError::Full {
            port: entry.published_port,
            table: "tasks",
        })?;
        self.next_task = base + length;
        Ok(base)
    }

    fn withdraw(&mut self, tables: &Tables) -> Result<usize, DatapathError> {
        let wanted: BTreeSet<PublishedKey> = tables.published.iter().map(published_key).collect();
        let gone: Vec<PublishedKey> = self
            .maps
            .published
            .held
            .keys()
            .filter(|key| !wanted.contains(key))
            .copied()
            .collect();
        for key in &gone {
            self.maps.published.remove(key)?;
            self.published.remove(key);
        }
        Ok(gone.len())
    }

    /// Marks a node as answering or not, without a full sync.
    ///
    /// # Errors
    /// When the map cannot be written or holds no such node.
    pub fn set_alive(&mut self, node: u32, alive: bool) -> Result<(), DatapathError> {
        let held = self
            .maps
            .nodes
            .held
            .get(&node)
            .copied()
            .ok_or(DatapathError::NoSuchNode(node))?;
        let wanted = u32::from(alive);
        if held.alive != wanted {
            self.maps.nodes.write(
                node,
                skep_ebpf_common::NodeValue {
                    alive: wanted,
                    ..held
                },
            )?;
        }
        Ok(())
    }

    /// Packets dropped so far, by reason; reasons that never occurred are left out.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64)>, DatapathError> {
        let counts = self.maps.drops()?;
        let named = DropReason::ALL
            .iter()
            .map(|r| (*r, counts.get(*r as usize).copied().unwrap_or(0)));
        Ok(named.filter(|(_, count)| *count > 0).collect())
    }

    /// Packets so far, by verdict.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        let counts = self.maps.counters()?;
        let at = |slot: usize| counts.get(slot).copied().unwrap_or(0);
        Ok(Counters {
            received: at(0),
            passed: at(1),
            redirected: at(2),
            dropped: at(3),
        })
    }

    /// Number of established flows towards a task's address that this node holds: mesh flows of its own tasks, and VIP
    /// flows of its own clients to any task.
    ///
    /// # Errors
    /// When the flow table cannot be read.
    pub fn established_flows_to(&self, vni: u32, address: IpAddr) -> Result<u64, DatapathError> {
        let task = self::address(address);
        let flows = self.maps.flows.all()?;
        let counted = flows.iter().filter(|(key, value)| {
            let to = if key.kind == FLOW_MESH {
                key.server
            } else {
                value.task
            };
            key.network == vni && to == task && is_established(value) && !is_over(value)
        });
        Ok(counted.count() as u64)
    }

    /// Time as flows are stamped with it: CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// When the clock cannot be read.
    pub fn now() -> Result<Duration, DatapathError> {
        let now =
            clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| DatapathError::Clock(errno.into()))?;
        Ok(Duration::from(now))
    }

    /// Removes flows that are over or idle for too long. `now` is CLOCK_MONOTONIC, see [`Datapath::now`].
    ///
    /// # Errors
    /// When the flow table cannot be read or written.
    pub fn collect_flows(&mut self, now: Duration) -> Result<FlowReport, DatapathError> {
        let mut report = FlowReport::default();
        let now_s = now.as_secs() as u32;
        let expired = |protocol: u8, value: &FlowValue| {
            now_s.saturating_sub(value.last_seen_s) > lifetime_s(protocol, value)
        };
        for (key, value) in self.maps.flows.all()? {
            if expired(key.protocol, &value) {
                self.maps.flows.remove(&key)?;
                report.expired += 1;
            } else {
                report.established += 1;
            }
        }
        for (key, value) in self.maps.half_open.all()? {
            if expired(key.protocol, &value) {
                self.maps.half_open.remove(&key)?;
                report.expired += 1;
            } else {
                report.half_open += 1;
            }
        }
        Ok(report)
    }

    /// Runs a program on a packet without sending it anywhere; flows and counters are changed as by a real one.
    ///
    /// # Errors
    /// When the kernel refuses the packet (shorter than an Ethernet header, unknown interface).
    pub fn test_run(
        &mut self,
        program: Program,
        packet: &TestPacket<'_>,
    ) -> Result<TestOutcome, DatapathError> {
        Ok(test_run::run(&mut self.object, program, packet)?)
    }

    /// What the kernel says of the loaded programs: name, size in bytes as translated, and instructions the verifier
    /// walked through.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn programs(&mut self) -> Result<Vec<(&'static str, u32, u32)>, DatapathError> {
        Ok(object::sizes(&mut self.object)?)
    }

    /// Lets go of the kernel's objects. `remove`: detach everything and delete the pins (the node leaves the swarm);
    /// otherwise everything goes on forwarding.
    ///
    /// # Errors
    /// All that could not be removed; the rest is.
    pub fn close(self, remove: bool) -> Result<(), DatapathError> {
        if !remove {
            return Ok(());
        }
        let mut errors: Vec<DatapathError> = Vec::new();
        for place in &self.attached {
            errors.extend(
                attach::detach(&self.pins, *place, self.hook)
                    .err()
                    .map(DatapathError::from),
            );
        }
        match bpffs::list(&self.pins) {
            Ok(names) => {
                let failed = names
                    .iter()
                    .filter_map(|name| bpffs::remove(&self.pins.join(name)).err());
                errors.extend(failed.map(DatapathError::from));
            }
            Err(error) => errors.push(error.into()),
        }
        errors.extend(bpffs::remove_directory(&self.pins).err().map(DatapathError::from));
        let mut errors = errors.into_iter();
        match errors.next() {
            None => Ok(()),
            Some(first) => Err(DatapathError::Close {
                first: Box::new(first),
                more: errors.count(),
            }),
        }
    }
}

fn published_key(entry: &PublishedEntry) -> PublishedKey {
    PublishedKey {
        protocol: u16::from(entry.protocol.number()),
        port_be: entry.published_port.to_be(),
    }
}

fn check(entry: &PublishedEntry) -> Result<(), DatapathError> {
    let port = entry.published_port;
    if entry.algorithm != rows::ALGORITHM {
        return Err(DatapathError::Algorithm {
            port,
            algorithm: entry.algorithm,
        });
    }
    if !rows::ROWS_LOG2.contains(&entry.rows_log2) {
        return Err(DatapathError::Rows {
            port,
            rows_log2: entry.rows_log2,
        });
    }
    if entry.tasks.len() > rows::MAX_TASKS {
        return Err(DatapathError::Full { port, table: "tasks" });
    }
    Ok(())
}
