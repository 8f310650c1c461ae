//! Ingress addresses and the services behind them: what a service asks for by label, and which nodes may hold an address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::assign::serves;
use super::constraint;
use super::state::*;
use crate::model::*;

/// How the published ports' packets travel: `mesh` (the default), `dsr` or `local`.
pub const MODE_LABEL: &str = "skep.ingress.mode";
/// The ingress address that the published ports answer on; without it, they answer on every node's own addresses and on
/// all ingress addresses that no service asks for.
pub const ADDRESS_LABEL: &str = "skep.ingress.address";

/// Owners of an address at most: more make a take-over no surer, and every claim goes to all of them.
pub const MAX_OWNERS: usize = 8;

/// The mode that the labels ask for; the error is the word that is none.
pub fn mode_of(spec: &ServiceSpec) -> Result<IngressMode, &str> {
    match spec.annotations.labels.get(MODE_LABEL).map(String::as_str) {
        None | Some("mesh") => Ok(IngressMode::Mesh),
        Some("dsr") => Ok(IngressMode::Dsr),
        Some("local") => Ok(IngressMode::Local),
        Some(other) => Err(other),
    }
}

/// The address that the labels ask for, without prefix length; the error is the text that is none.
pub fn address_of(spec: &ServiceSpec) -> Result<Option<IpAddr>, &str> {
    let Some(text) = spec.annotations.labels.get(ADDRESS_LABEL) else {
        return Ok(None);
    };
    bare(text).map(Some).ok_or(text)
}

/// The address of a text with or without a prefix length.
pub fn bare(text: &str) -> Option<IpAddr> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "0"));
    prefix.parse::<u8>().ok().and(address.parse().ok())
}

/// The address of the record, without prefix length.
pub fn bare_text(address: &IngressAddress) -> String {
    bare(&address.spec.address).map_or_else(|| address.spec.address.clone(), |a| a.to_string())
}

/// Where a service's ports answer: ports of one scope conflict, those of two do not.
pub fn scope_of(service: &Service) -> Option<IpAddr> {
    address_of(&service.spec).unwrap_or(None)
}

impl ClusterState {
    /// The record of that address.
    pub fn ingress_address(&self, address: IpAddr) -> Option<&std::sync::Arc<IngressAddress>> {
        self.ingress_addresses
            .values()
            .find(|a| bare(&a.spec.address) == Some(address))
    }
}

/// The services that stand behind ingress addresses, read once.
pub struct Behind<'a> {
    by_address: BTreeMap<IpAddr, Vec<&'a Service>>,
    /// Those that name none and publish through the mesh.
    shared: Vec<&'a Service>,
    /// Nodes that run a task of the service which takes new connections, by service.
    nodes: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Behind<'a> {
    pub fn read(state: &'a ClusterState) -> Behind<'a> {
        let mut behind = Behind {
            by_address: BTreeMap::new(),
            shared: Vec::new(),
            nodes: BTreeMap::new(),
        };
        for service in state.services.values().map(|s| &**s) {
            match scope_of(service) {
                Some(address) => behind.by_address.entry(address).or_default().push(service),
                None if uses_ingress(&service.ports) => behind.shared.push(service),
                None => {}
            }
        }
        for task in state.tasks.values().filter(|t| serves(state, t)) {
            let nodes = behind.nodes.entry(&task.service_id).or_default();
            nodes.insert(&task.node_id);
        }
        behind
    }

    /// Services that ask for the address by name: it is then theirs alone.
    pub fn named(&self, address: &IngressAddress) -> &[&'a Service] {
        let services = bare(&address.spec.address).and_then(|a| self.by_address.get(&a));
        services.map_or(&[], Vec::as_slice)
    }

    fn is_dedicated(&self, address: &IngressAddress) -> bool {
        !self.named(address).is_empty()
    }

    fn of(&self, address: &IngressAddress) -> &[&'a Service] {
        match self.named(address) {
            [] => &self.shared,
            named => named,
        }
    }

    /// Services of the address that are served by the node they come in through only.
    fn local(&self, address: &IngressAddress) -> impl Iterator<Item = &'a Service> {
        let services = self.of(address).iter().copied();
        services.filter(|s| uses_ingress(&s.ports) && mode_of(&s.spec) == Ok(IngressMode::Local))
    }

    /// Whether connections through the address end when it moves, since only its holder serves some of them.
    pub fn ends_with_a_move(&self, address: &IngressAddress) -> bool {
        self.local(address).next().is_some()
    }

    fn runs(&self, node: &Node, service: &Service) -> bool {
        let nodes = self.nodes.get(service.id.as_str());
        nodes.is_some_and(|nodes| nodes.contains(node.id.as_str()))
    }

    /// Whether nothing but services in mode `local` answers on the address.
    fn is_local_only(&self, address: &IngressAddress) -> bool {
        let answering = self.named(address).iter().filter(|s| uses_ingress(&s.ports));
        self.is_dedicated(address) && answering.count() == self.local(address).count()
    }
}

/// The nodes that may hold an address.
pub struct Candidates<'a> {
    /// May be its first owner.
    pub first: Vec<&'a Node>,
    /// May be an owner at all: those of `first` and, behind them, others.
    pub all: Vec<&'a Node>,
}

/// Nodes that are ready, active and meet the constraints. Of these, nodes that run tasks of the services in mode `local` go
/// first (those that run most of them), and are the only ones where nothing else answers on the address. While no
/// node runs one, all are equal.
///
/// While no node at all may hold the address because the managers do not hear of any, those that they knew to be good stay:
/// they may well go on.
pub fn candidates<'a>(state: &'a ClusterState, behind: &Behind, address: &IngressAddress) -> Candidates<'a> {
    let known = |n: &&Node| address.owners.contains(&n.index);
    let nodes = || state.nodes.values().map(|n| &**n);
    let mut all: Vec<&Node> = nodes().filter(|n| unfit(address, n).is_none()).collect();
    if all.is_empty() {
        let silent = |n: &&Node| unwilling(address, n).is_none();
        all = nodes().filter(known).filter(silent).collect();
    }
    let runs_of = |n: &Node| behind.local(address).filter(|s| behind.runs(n, s)).count();
    let most = all.iter().map(|n| runs_of(n)).max().unwrap_or(0);
    let first: Vec<&Node> = all.iter().copied().filter(|n| runs_of(n) == most).collect();
    if most > 0 && behind.is_local_only(address) {
        all.clone_from(&first);
    }
    Candidates { first, all }
}

/// Why the node may not be the first owner of the address.
pub fn refusal(state: &ClusterState, address: &IngressAddress, node: &Node) -> Option<String> {
    let behind = Behind::read(state);
    let unfit = unfit(address, node);
    if unfit.is_some() {
        return unfit;
    }
    let first = candidates(state, &behind, address).first;
    if first.iter().any(|n| n.id == node.id) {
        return None;
    }
    let missing: Vec<&str> = behind
        .local(address)
        .filter(|s| !behind.runs(node, s))
        .map(|s| s.spec.annotations.name.as_str())
        .collect();
    let services = missing.join(", ");
    Some(format!(
        "it runs no task of a service that is published there in mode local ({services})"
    ))
}

fn unfit(address: &IngressAddress, node: &Node) -> Option<String> {
    if node.state() != NodeState::Ready {
        let state = match node.state() {
            NodeState::Down => "down",
            NodeState::Disconnected => "disconnected",
            NodeState::Unknown | NodeState::Ready => "unknown",
        };
        return Some(format!("it is not ready (its state is {state})"));
    }
    unwilling(address, node)
}

/// Why the node may not hold the address even if it is well.
fn unwilling(address: &IngressAddress, node: &Node) -> Option<String> {
    match node.spec.availability() {
        Availability::Active => {}
        Availability::Pause => return Some("its availability is pause".to_string()),
        Availability::Drain => return Some("its availability is drain".to_string()),
    }
    let unmet = address.spec.constraints.iter().find(|text| {
        let constraint = constraint::parse(text);
        !constraint.is_ok_and(|c| constraint::all_met(&[c], node))
    });
    unmet.map(|text| format!("it does not meet the address's constraint {text}"))
}
