//! What the programs on the node's own sockets remember, and how the agent's own are told apart.

use crate::Address;

/// Destinations that an unconnected socket may have at the same time.
pub const DIALED_SLOTS: usize = 4;

/// A destination as it was dialed, before it became the mesh address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Dialed {
    pub address: Address,
    /// What it became: answers come from there.
    pub stand_in_be: u32,
    pub port_be: u16,
    /// 0: an empty slot.
    pub used: u16,
}

/// `DIALED`: kept with the socket, and gone with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DialedValue {
    pub slots: [Dialed; DIALED_SLOTS],
    /// The slot that the next new destination takes.
    pub next: u32,
}

/// Stands for "a published port of this node" (and other addresses of its kind for single ingress addresses): never on a wire.
pub const STAND_INS: [u8; 2] = [169, 254];

/// Could an answer from this address be one to a destination that was rewritten?
#[inline(always)]
pub const fn may_be_stand_in(address_be: u32) -> bool {
    let octets = address_be.to_ne_bytes();
    octets[0] == STAND_INS[0] && octets[1] == STAND_INS[1]
}

/// SO_MARK of the sockets with which the agent holds published ports ("skgu"): the guard on binds lets them through, and they are no service of the node's.
/// Only CAP_NET_ADMIN sets a mark.
pub const GUARD_MARK: u32 = 0x736b_6775;

const _: () = assert!(size_of::<Dialed>() == 24);
const _: () = assert!(size_of::<DialedValue>() == 100);
