//! The data plane of one node as its agent sees it.

mod flows;
mod liveness;
mod places;
mod publish;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use aya::Ebpf;
pub use liveness::Liveness;
use skep_ebpf_common::{Config, DropReason, LAYOUT, PublishedKey};

use crate::core::contents::{Contents, contents};
use crate::core::sockets::local_addresses;
use crate::io::attach::{self, AttachError, Hook, Place, Program};
use crate::io::bpffs::{self, BpffsError};
use crate::io::cgroup::Group;
use crate::io::device::{self, DeviceError};
use crate::io::kernel;
use crate::io::maps::{self, Maps, MapsError};
use crate::io::object::{self, OBJECT, ObjectError, Source};
use crate::io::raw_map::RawMapError;
use crate::io::test_run::{self, TestOutcome, TestPacket, TestRunError};
use crate::tables::{Counters, DatapathConfig, PublishedEntry, SyncReport, Tables};

pub use flows::FlowTables;
use places::Before;

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
    RawMap(#[from] RawMapError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    TestRun(#[from] TestRunError),
    #[error("read the monotonic clock: {0}")]
    Clock(#[source] std::io::Error),
    #[error("{} pins could not be removed, first: {first}", more + 1)]
    Close { first: Box<DatapathError>, more: usize },
}

/// The programs, and the number of their maps' layout.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    pub layout: u32,
    pub object: &'static [u8],
}

impl Build {
    /// What this crate carries.
    pub const THIS: Self = Self {
        layout: LAYOUT,
        object: OBJECT,
    };
}

/// Loaded, attached and pinned programs and maps of this node. All calls belong into the node's network namespace.
pub struct Datapath {
    config: DatapathConfig,
    pins: PathBuf,
    object: Ebpf,
    maps: Maps,
    constants: Config,
    build: Build,
    attached: BTreeSet<Place>,
    /// How places are attached now, and how they shall be.
    hook: Hook,
    asked: Hook,
    /// Groups of programs on sockets that are at work and of this version.
    sockets: BTreeSet<Group>,
    /// Pins of other layouts.
    older: Vec<PathBuf>,
    /// The one of them whose programs forward until ours have been told what to do.
    before: Option<Before>,
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
        Self::open_build(config, hook, Build::THIS)
    }

    /// [`Datapath::open_at`] with the programs of another build: for tests of what a change between builds does.
    ///
    /// # Errors
    /// As [`Datapath::open`].
    pub fn open_build(config: DatapathConfig, hook: Hook, build: Build) -> Result<Self, DatapathError> {
        bpffs::prepare(&config.pin_dir)?;
        let pins = config.pin_dir.join(format!("v{}", build.layout));
        bpffs::prepare(&pins)?;
        let older = bpffs::siblings(&pins)?;
        let before = Before::find(&older)?;
        let constants = constants(&config)?;
        maps::check(&pins)?;
        maps::share_dialed(&older, &pins)?;
        let source = source(build, &pins, config.max_flows, before.as_ref());
        let loaded = object::load(&source, &constants).map_err(DatapathError::from);
        let mut object = match loaded {
            Ok(object) => object,
            Err(error) => {
                discard(&pins);
                return Err(error);
            }
        };
        let maps = Maps::open(&mut object)?;
        let mut datapath = Self {
            config,
            pins,
            object,
            maps,
            constants,
            build,
            attached: BTreeSet::new(),
            hook: before.as_ref().map_or(hook, Before::hook),
            asked: hook,
            sockets: BTreeSet::new(),
            older,
            before,
            published: BTreeMap::new(),
            next_row: 0,
            next_task: 0,
        };
        datapath.take_over()?;
        datapath.take_over_sockets();
        Ok(datapath)
    }

    fn source(&self) -> Source<'_> {
        source(
            self.build,
            &self.pins,
            self.config.max_flows,
            self.before.as_ref(),
        )
    }

    /// Makes the kernel's maps and attachments equal to `tables`; additions before removals.
    ///
    /// # Errors
    /// Stops at the first map that cannot be written; a later call with the same tables goes on from there. Interfaces
    /// that cannot be attached and ports that cannot be published are no error but stand in the report.
    pub fn sync(&mut self, tables: &Tables) -> Result<SyncReport, DatapathError> {
        let mut report = SyncReport::default();
        let macs = macs(tables, &mut report);
        let wanted = contents(tables, &self.maps.endpoints.held, &macs);
        let local = local_addresses(tables, self.config.mesh_address);
        report.written += self.add(&wanted)?;
        report.written += self.maps.local_addresses.add(&local)?;
        self.publish(tables, &mut report)?;
        self.place(tables, &mut report)?;
        report.sockets = self.place_sockets();
        report.removed += self.withdraw(tables)?;
        report.removed += self.maps.local_addresses.prune(&local)?;
        report.removed += self.prune(&wanted)?;
        self.leave_other_layouts();
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
        maps.unmark_all_but(&wanted.nodes)?;
        Ok(maps.own_addresses.prune(&wanted.own_addresses)?
            + maps.interfaces.prune(&wanted.interfaces)?
            + maps.sources.prune(&wanted.sources)?
            + maps.endpoints.prune(&wanted.endpoints)?
            + maps.backends.prune(&wanted.backends)?
            + maps.networks.prune(&wanted.networks)?
            + maps.peers.prune(&wanted.peers)?
            + maps.nodes.prune(&wanted.nodes)?)
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
        let all = self.older.iter().chain([&self.pins]);
        let errors = all.flat_map(|pins| attach::sweep(pins));
        let errors: Vec<DatapathError> = errors.map(DatapathError::from).collect();
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

/// MAC addresses of the interfaces of ingress addresses, read anew each time: they change with bonds and bridges.
fn macs(tables: &Tables, report: &mut SyncReport) -> BTreeMap<u32, [u8; 6]> {
    let interfaces: BTreeSet<u32> = tables.ingress.iter().map(|entry| entry.ifindex).collect();
    let mut macs = BTreeMap::new();
    for ifindex in interfaces.into_iter().filter(|ifindex| *ifindex != 0) {
        match device::mac(ifindex) {
            Ok(mac) => {
                macs.insert(ifindex, mac);
            }
            Err(error) => report.failed.push((ifindex, error.to_string())),
        }
    }
    macs
}

fn constants(config: &DatapathConfig) -> Result<Config, DatapathError> {
    Ok(Config {
        node: config.node_index,
        vxlan_ifindex: config.vxlan_ifindex,
        host_ifindex: config.host_ifindex,
        mesh_vni: config.mesh_vni,
        mesh_vni_forwarded: config.mesh_vni_forwarded,
        resolver_be: u32::from_ne_bytes(config.resolver.octets()),
        mesh_address_be: u32::from_ne_bytes(config.mesh_address.octets()),
        host_mac: device::mac(config.host_peer_ifindex)?,
        pad: 0,
    })
}

fn source<'a>(build: Build, pins: &'a Path, max_flows: u32, before: Option<&'a Before>) -> Source<'a> {
    Source {
        object: build.object,
        pins,
        max_flows,
        gated: before.is_some(),
        flows_of: before.and_then(Before::flows).map(PathBuf::as_path),
    }
}

/// Maps without programs are of no use to anybody: these were made for programs that the kernel refused.
fn discard(pins: &Path) {
    let unused = attach::placed(pins).is_ok_and(|placed| placed.is_empty());
    if unused {
        for error in bpffs::clear(pins) {
            tracing::warn!(%error, "maps without programs stay");
        }
    }
}
