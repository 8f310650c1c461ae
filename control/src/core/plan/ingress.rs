//! Ranks the owners of ingress addresses and chooses who grants their leases.
//!
//! Little moves: a first owner that may stay stays, and who comes after it keeps its place, because the nodes may have
//! handed the address on in that order already. Only when one node has two addresses more than another could have, one
//! moves. A node that comes back joins at the end.

use std::collections::BTreeMap;

use crate::core::ingress::{Behind, Candidates, MAX_OWNERS, candidates};
use crate::core::state::ClusterState;
use crate::model::*;

/// Observers of an address at most.
const MAX_OBSERVERS: usize = 7;

/// One address under consideration.
struct Ranked<'a> {
    address: &'a IngressAddress,
    candidates: Candidates<'a>,
    /// A user moved it there, or connections would end: it does not move for the sake of spread.
    is_settled: bool,
    owners: Vec<u32>,
}

/// The ranks that differ from those in the state.
pub fn rank(state: &ClusterState) -> Vec<IngressRank> {
    if state.ingress_addresses.is_empty() {
        return Vec::new();
    }
    let behind = Behind::read(state);
    let mut ranked: Vec<Ranked> = state
        .ingress_addresses
        .values()
        .map(|address| Ranked {
            address,
            candidates: candidates(state, &behind, address),
            is_settled: address.moved_to != 0 || behind.ends_with_a_move(address),
            owners: Vec::new(),
        })
        .collect();
    ranked.sort_by_key(|r| r.address.index);
    let firsts = spread(&ranked);
    let mut seconds: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    for (ranked, first) in ranked.iter_mut().zip(&firsts) {
        ranked.keep(*first);
        if let [first, second, ..] = ranked.owners.as_slice() {
            *seconds.entry((*first, *second)).or_default() += 1;
        }
    }
    for ranked in &mut ranked {
        ranked.fill(&mut seconds);
    }
    let ranks = ranked.into_iter().map(|r| IngressRank {
        id: r.address.id.clone(),
        epoch: r.address.epoch,
        observers: observers(state, &r.address.observers),
        owners: r.owners,
    });
    ranks.filter(|r| differs(state, r)).collect()
}

fn differs(state: &ClusterState, rank: &IngressRank) -> bool {
    let known = state.ingress_addresses.get(&rank.id);
    known.is_some_and(|a| a.owners != rank.owners || a.observers != rank.observers)
}

/// The first owner of each address.
fn spread(ranked: &[Ranked]) -> Vec<Option<u32>> {
    let mut load: BTreeMap<u32, usize> = BTreeMap::new();
    for node in ranked.iter().flat_map(|r| &r.candidates.all) {
        load.insert(node.index, 0);
    }
    let mut firsts: Vec<Option<u32>> = ranked.iter().map(|r| r.heir()).collect();
    for first in firsts.iter().flatten() {
        *load.entry(*first).or_default() += 1;
    }
    for (ranked, first) in ranked.iter().zip(&mut firsts) {
        if first.is_none() {
            let chosen = ranked.least(&load);
            *first = chosen;
            if let Some(chosen) = chosen {
                *load.entry(chosen).or_default() += 1;
            }
        }
    }
    even_out(ranked, &mut firsts, &mut load);
    firsts
}

/// Moves an address off a node as long as another that may have it has two less: one that moves anyway if there is such,
/// else the newest. Each move brings the two closer, so it ends.
fn even_out(ranked: &[Ranked], firsts: &mut [Option<u32>], load: &mut BTreeMap<u32, usize>) {
    loop {
        let of = |node: u32| load.get(&node).copied().unwrap_or(0);
        let moves = ranked.iter().zip(firsts.iter()).enumerate();
        let moves =
            moves.filter(|(_, (r, first))| !(r.is_settled && r.address.owners.first() == first.as_ref()));
        let moves = moves.filter_map(|(nth, (r, first))| {
            let (from, to) = ((*first)?, r.least(load)?);
            (of(from) >= of(to) + 2).then_some((nth, from, to))
        });
        let moves_anyway = |nth: usize| ranked[nth].address.owners.first() != firsts[nth].as_ref();
        let best = moves.max_by_key(|(nth, from, to)| (of(*from) - of(*to), moves_anyway(*nth), *nth));
        let Some((nth, from, to)) = best else {
            return;
        };
        firsts[nth] = Some(to);
        *load.entry(from).or_default() -= 1;
        *load.entry(to).or_default() += 1;
    }
}

impl Ranked<'_> {
    fn may_be_first(&self, node: u32) -> bool {
        self.candidates.first.iter().any(|n| n.index == node)
    }

    fn may_own(&self, node: u32) -> bool {
        self.candidates.all.iter().any(|n| n.index == node)
    }

    /// Who has the address by the present ranking: the first that still may.
    fn heir(&self) -> Option<u32> {
        let mut owners = self.address.owners.iter().copied();
        owners.find(|owner| self.may_be_first(*owner))
    }

    fn least(&self, load: &BTreeMap<u32, usize>) -> Option<u32> {
        let nodes = self.candidates.first.iter().map(|n| n.index);
        nodes.min_by_key(|node| (load.get(node).copied().unwrap_or(0), *node))
    }

    /// The owners that stay, in their order, behind the first; those that may not be first go behind those that may.
    fn keep(&mut self, first: Option<u32>) {
        let known = self.address.owners.iter().copied();
        let (may, others): (Vec<u32>, Vec<u32>) = known
            .filter(|owner| Some(*owner) != first && self.may_own(*owner))
            .partition(|owner| self.may_be_first(*owner));
        self.owners = first.into_iter().chain(may).chain(others).collect();
    }

    /// Adds the other nodes: such as may be first before such as may not. The second owner gets the address when the first
    /// dies, so addresses of one node get different ones where there are as many.
    fn fill(&mut self, seconds: &mut BTreeMap<(u32, u32), usize>) {
        let Some(first) = self.owners.first().copied() else {
            return;
        };
        let mut new: Vec<u32> = self.candidates.all.iter().map(|n| n.index).collect();
        new.retain(|node| !self.owners.contains(node));
        // Round the circle from the first one on.
        new.sort_by_key(|node| (*node < first, *node));
        if self.owners.len() == 1 {
            let taken = |node: &u32| seconds.get(&(first, *node)).copied().unwrap_or(0);
            new.sort_by_key(|node| (!self.may_be_first(*node), taken(node)));
            if let Some(second) = new.first() {
                *seconds.entry((first, *second)).or_default() += 1;
            }
        }
        self.owners.extend(new);
        let (may, others): (Vec<u32>, Vec<u32>) =
            self.owners.iter().partition(|owner| self.may_be_first(**owner));
        self.owners = may.into_iter().chain(others).take(MAX_OWNERS).collect();
    }
}

/// An odd number, so that no half stands against another half; two in a swarm of two, which has a rule of its own.
///
/// Those that are ready stay. If they are no majority of the present ones, none is taken out: it may be this manager that is
/// cut off, and those it does not hear may have granted the lease on their side.
fn observers(state: &ClusterState, known: &[u32]) -> Vec<u32> {
    let mut nodes: Vec<(u32, bool)> = state
        .nodes
        .values()
        .map(|n| (n.index, n.state() == NodeState::Ready))
        .collect();
    nodes.sort_unstable();
    let is_known = |(node, _): &(u32, bool)| known.contains(node);
    let (present, others): (Vec<_>, Vec<_>) = nodes.into_iter().partition(is_known);
    let (alive, silent): (Vec<_>, Vec<_>) = present.into_iter().partition(|(_, ready)| *ready);
    let kept = if alive.len() > silent.len() {
        Vec::new()
    } else {
        silent
    };
    let new = others.into_iter().filter(|(_, ready)| *ready);
    let mut observers: Vec<u32> = alive
        .into_iter()
        .chain(kept)
        .chain(new)
        .map(|(node, _)| node)
        .collect();
    observers.truncate(match observers.len() {
        few @ 0..=2 => few,
        many => (many - 1 + many % 2).min(MAX_OBSERVERS),
    });
    observers.sort_unstable();
    observers
}
