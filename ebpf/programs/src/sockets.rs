//! Which destinations of the node's own sockets are published ports, what they were called when they were dialed, and
//! which ports nobody else may bind.

use skep_ebpf_common::{Address, DIALED_SLOTS, Dialed, DialedValue, LocalAddressValue};

/// The port of DNS: resolvers answer it on the loopback and on bridges, so only addresses that outside clients dial are taken
/// where it is published.
pub const DNS_PORT_BE: u16 = 53_u16.to_be();

/// What is known about the node; answers are looked up only when asked for.
pub trait Node {
    /// What is known of an address of the node (the loopback's are in no table) or of the swarm.
    fn local(&mut self, address: &Address) -> Option<LocalAddressValue>;
    /// What stands for the loopback in the node's own traffic.
    fn mesh_address(&mut self) -> u32;
    /// Does the mesh answer this port on this address (as it is dialed inside the mesh)?
    fn is_published(&mut self, protocol: u16, address_be: u32, port_be: u16) -> bool;
    /// Does a process of the node, other than the agent's guard, answer at this very address?
    fn is_served(&mut self, protocol: u16, address: &Address, port_be: u16) -> bool;
}

/// The destination that leads to a published port, if the dialed one means one.
#[inline(always)]
pub fn destination<N: Node>(node: &mut N, protocol: u16, address: &Address, port_be: u16) -> Option<u32> {
    let stand_in = meant(node, address)?;
    if !node.is_published(protocol, stand_in, port_be) {
        return None;
    }
    // It was there before the port was published (a resolver on the loopback, a listener on ::1).
    if node.is_served(protocol, address, port_be) {
        return None;
    }
    Some(stand_in)
}

#[inline(always)]
fn meant<N: Node>(node: &mut N, address: &Address) -> Option<u32> {
    if is_loopback(address) {
        return Some(node.mesh_address());
    }
    node.local(address).map(|local| local.stand_in_be)
}

/// May nobody bind this? The address of an IPv6 socket counts if the socket takes IPv4 as well, or is the loopback's.
#[inline(always)]
pub fn is_guarded<N: Node>(node: &mut N, protocol: u16, address: &Address, port_be: u16) -> bool {
    if port_be == 0 {
        return false;
    }
    let dns = port_be == DNS_PORT_BE;
    let stand_in = match node.local(address) {
        Some(local) if local.outside != 0 || !dns => local.stand_in_be,
        None if is_any(address) => node.mesh_address(),
        None if !dns && (is_loopback(address) || address.to_v4().is_some()) => node.mesh_address(),
        _ => return false,
    };
    node.is_published(protocol, stand_in, port_be)
}

/// 127.0.0.0/8 or ::1.
#[inline(always)]
pub fn is_loopback(address: &Address) -> bool {
    match address.to_v4() {
        Some(address_be) => address_be.to_ne_bytes()[0] == 127,
        None => is_zero_but_last(address) && address.words_be[3] == 1_u32.to_be(),
    }
}

#[inline(always)]
fn is_any(address: &Address) -> bool {
    address.is_none() || address.to_v4() == Some(0)
}

#[inline(always)]
fn is_zero_but_last(address: &Address) -> bool {
    address.words_be[0] == 0 && address.words_be[1] == 0 && address.words_be[2] == 0
}

/// Notes what was dialed. What answers names only the stand-in and the port, so the last destination that became them counts.
#[inline(always)]
pub fn remember(value: &mut DialedValue, address: &Address, stand_in_be: u32, port_be: u16) {
    let new = Dialed {
        address: *address,
        stand_in_be,
        port_be,
        used: 1,
    };
    for slot in &mut value.slots {
        if is_of(slot, stand_in_be, port_be) {
            slot.address = new.address;
            return;
        }
    }
    let next = value.next;
    value.next = (next + 1) % DIALED_SLOTS as u32;
    for (at, slot) in (0_u32..).zip(&mut value.slots) {
        if at == next {
            *slot = new;
        }
    }
}

/// The address that was dialed, of an answer from this one.
#[inline(always)]
pub fn recall(value: &DialedValue, stand_in_be: u32, port_be: u16) -> Option<Address> {
    for slot in &value.slots {
        if is_of(slot, stand_in_be, port_be) {
            return Some(slot.address);
        }
    }
    None
}

#[inline(always)]
fn is_of(slot: &Dialed, stand_in_be: u32, port_be: u16) -> bool {
    slot.used != 0 && slot.port_be == port_be && slot.stand_in_be == stand_in_be
}

#[cfg(test)]
mod tests;
