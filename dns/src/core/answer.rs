//! From a question and who asks it to an answer. Names are looked up as moby's resolver does
//! (daemon/libnetwork: `Sandbox.ResolveName`): the whole name in every network of the client in order,
//! then `name.network` split at each dot from the right.

use std::net::IpAddr;

use crate::table::{Client, Table, Zone};

/// Seconds an answer from the table may be kept. Short, because a client that caches longer goes on
/// to call a task that has stopped.
pub const TTL_S: u32 = 2;

/// The record type asked for, as far as it makes a difference to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    A,
    Aaaa,
    /// Every address, of either family.
    Any,
    /// A type the table never holds: a known name has no data of it.
    Other,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// A name, in any case, without a trailing dot.
    Name { name: String, kind: Kind },
    /// The name of an address (PTR).
    Reverse(IpAddr),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Never empty.
    Addresses(Vec<IpAddr>),
    /// The name of an address, with the network's name.
    Name(String),
    /// The name is known, but has nothing of this kind.
    NoData,
    NxDomain,
    /// Nobody we serve.
    Refused,
    /// Not ours: ask upstream.
    Forward,
}

/// Answers for the client at `client`. Several addresses come in an order that `turn` decides.
pub fn answer(table: &Table, client: IpAddr, question: &Question, turn: u64) -> Answer {
    let Some(client) = table.clients.get(&client.to_canonical()) else {
        return Answer::Refused;
    };
    let found = match question {
        Question::Name { name, kind } => find_name(table, client, name, *kind, turn),
        Question::Reverse(address) => find_address(table, client, *address),
    };
    match found {
        Some(answer) => answer,
        None if client.internal_only => Answer::NxDomain,
        None => Answer::Forward,
    }
}

fn zones<'a>(table: &'a Table, client: &'a Client) -> impl Iterator<Item = &'a Zone> {
    client.networks.iter().filter_map(|id| table.networks.get(id))
}

fn find_name(table: &Table, client: &Client, name: &str, kind: Kind, turn: u64) -> Option<Answer> {
    let name = name.to_ascii_lowercase();
    let whole = std::iter::once((name.as_str(), None));
    let split = name
        .rmatch_indices('.')
        .map(|(at, _)| (&name[..at], Some(&name[at + 1..])));
    let mut known = false;
    for (name, network) in whole.chain(split) {
        for zone in zones(table, client) {
            if network.is_some_and(|network| !zone.name.eq_ignore_ascii_case(network)) {
                continue;
            }
            let Some(all) = zone.names.get(name) else { continue };
            known = true;
            let mut addresses: Vec<IpAddr> = all
                .iter()
                .copied()
                .filter(|address| fits(kind, address))
                .collect();
            if !addresses.is_empty() {
                shuffle(&mut addresses, turn);
                return Some(Answer::Addresses(addresses));
            }
        }
        if known {
            return Some(Answer::NoData);
        }
    }
    None
}

fn fits(kind: Kind, address: &IpAddr) -> bool {
    match kind {
        Kind::A => address.is_ipv4(),
        Kind::Aaaa => address.is_ipv6(),
        Kind::Any => true,
        Kind::Other => false,
    }
}

fn find_address(table: &Table, client: &Client, address: IpAddr) -> Option<Answer> {
    zones(table, client).find_map(|zone| {
        let name = zone.reverse.get(&address)?;
        Some(Answer::Name(format!("{name}.{}", zone.name)))
    })
}

/// Fisher-Yates. The whole order changes, not only the start: with a rotation the successor of a dead
/// address would get all of its clients.
fn shuffle(addresses: &mut [IpAddr], turn: u64) {
    let mut state = turn;
    for last in (1..addresses.len()).rev() {
        // splitmix64, which turns successive turns into unrelated numbers.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let other = (mixed % (last as u64 + 1)) as usize;
        addresses.swap(last, other);
    }
}

#[cfg(test)]
mod tests;
