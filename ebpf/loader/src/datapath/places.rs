//! Programs in their places: taken over from an agent before, or from another layout, without a packet lost.
//!
//! Programs of the same layout share their maps and are replaced one by one. Those of another layout have maps of their
//! own, and a flow may enter by one interface and answer by another: all change over in one instant. The new ones are
//! attached in front of the old ones with a closed gate, which sends packets on to these. When the new tables are
//! complete the gate opens. A flow that only the old tables have is adopted with its next packet, the quiet ones are copied,
//! and only then the old programs and their maps go.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Datapath, DatapathError};
use crate::io::attach::{self, Hook, Place, Program};
use crate::io::{bpffs, flows, object};
use crate::tables::{SyncReport, Tables};

/// Pins of another layout with programs in their places.
#[derive(Debug)]
pub(super) struct Before {
    pub pins: PathBuf,
    layout: u32,
    places: BTreeSet<Place>,
    hook: Hook,
}

impl Before {
    /// Of several the newest.
    pub fn find(older: &[PathBuf]) -> Result<Option<Self>, DatapathError> {
        let mut found: Option<Self> = None;
        for pins in older {
            let placed = attach::placed(pins)?;
            let Some(hook) = placed.first().map(|placed| placed.hook) else {
                continue;
            };
            let layout = bpffs::version(pins).unwrap_or(0);
            if found.as_ref().is_none_or(|before| before.layout < layout) {
                found = Some(Self {
                    pins: pins.clone(),
                    layout,
                    places: placed.iter().map(|placed| placed.place).collect(),
                    hook,
                });
            }
        }
        Ok(found)
    }

    /// As long as both stand, they are asked in the order of one kind of hook.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// Where its flows are, if this build can read them.
    pub fn flows(&self) -> Option<&PathBuf> {
        flows::is_alike(self.layout).then_some(&self.pins)
    }
}

impl Datapath {
    /// Our programs into all places that have one of this layout; places of interfaces that are gone are swept, and what
    /// another kind of hook holds goes over to `self.hook`.
    pub(super) fn take_over(&mut self) -> Result<(), DatapathError> {
        for placed in attach::placed(&self.pins)? {
            if !attach::replace(&mut self.object, &self.pins, placed)? {
                tracing::debug!(?placed, "the interface of a pin is gone");
                attach::detach(&self.pins, placed)?;
                continue;
            }
            if placed.hook != self.hook {
                self.attach(placed.place)?;
                attach::detach(&self.pins, placed)?;
            }
            self.attached.insert(placed.place);
        }
        if self.before.is_none() {
            for place in self.fixed_places() {
                self.attach(place)?;
                self.attached.insert(place);
            }
            self.maps.open_gate()?;
        }
        Ok(())
    }

    fn attach(&mut self, place: Place) -> Result<(), DatapathError> {
        Ok(attach::attach(&mut self.object, &self.pins, place.by(self.hook))?)
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

    fn wanted_places(&self, tables: &Tables) -> BTreeSet<Place> {
        let mut wanted = self.fixed_places();
        wanted.extend(tables.endpoints.iter().filter_map(|e| e.local).map(|l| Place {
            program: Program::Container,
            ifindex: l.ifindex,
        }));
        wanted.extend(tables.uplinks.iter().map(|u| Place {
            program: Program::Uplink,
            ifindex: u.ifindex,
        }));
        let ingress = tables.ingress.iter().filter(|entry| entry.ifindex != 0);
        wanted.extend(ingress.map(|entry| Place {
            program: Program::Uplink,
            ifindex: entry.ifindex,
        }));
        wanted
    }

    /// Attaches what is wanted; interfaces that cannot be attached stand in the report.
    fn attach_all(&mut self, places: BTreeSet<Place>, report: &mut SyncReport) {
        for place in places {
            if self.attached.contains(&place) {
                continue;
            }
            match self.attach(place) {
                Ok(()) => {
                    self.attached.insert(place);
                    report.attached.push(place.ifindex);
                }
                Err(error) => report.failed.push((place.ifindex, error.to_string())),
            }
        }
    }

    /// Attaches what is wanted and detaches the rest. The tables are complete.
    pub(super) fn place(&mut self, tables: &Tables, report: &mut SyncReport) -> Result<(), DatapathError> {
        let wanted = self.wanted_places(tables);
        if let Some(before) = &self.before {
            // Behind a closed gate only where somebody else works meanwhile.
            let gated = wanted.intersection(&before.places).copied().collect();
            self.attach_all(gated, report);
            self.maps.open_gate()?;
        }
        self.attach_all(wanted.clone(), report);
        let unwanted: Vec<Place> = self.attached.difference(&wanted).copied().collect();
        for place in unwanted {
            attach::detach(&self.pins, place.by(self.hook))?;
            self.attached.remove(&place);
            report.detached.push(place.ifindex);
        }
        Ok(())
    }

    /// Takes what is left of other layouts: their flows, then their places. What fails is tried again with the next sync.
    pub(super) fn leave_other_layouts(&mut self) {
        if self.older.is_empty() {
            return;
        }
        if let Some(before) = &self.before
            && let Err(error) = self.take_flows(before)
        {
            tracing::warn!(%error, "flows of another layout are not copied; their tables stay");
            return;
        }
        self.older.retain(|pins| {
            let errors = attach::sweep(pins);
            for error in &errors {
                tracing::warn!(%error, "pins of another version stay");
            }
            !errors.is_empty()
        });
        if self.before.take().is_some()
            && let Err(error) = self.load_again()
        {
            tracing::warn!(%error, "programs go on with a look at tables that are empty");
        }
    }

    fn take_flows(&self, before: &Before) -> Result<(), DatapathError> {
        let layout = before.layout;
        let Some(pins) = before.flows() else {
            tracing::warn!(
                layout,
                "flows of this layout are not known to this version: they end"
            );
            return Ok(());
        };
        let tables = self.flow_tables()?;
        let taken = flows::take(pins, &tables.established, &tables.half_open)?;
        tracing::info!(layout, ?taken, "flows of another layout taken over");
        Ok(())
    }

    /// The same programs without what they needed for the change, and by the hook that was asked for.
    fn load_again(&mut self) -> Result<(), DatapathError> {
        self.object = object::load(&self.source(), &self.constants)?;
        self.hook = self.asked;
        self.take_over()
    }
}
