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

/// Like the mesh address, but each stands for one ingress address that only its own ports answer on: 169.254.2.0 and 169.254.3.0, never on a
/// wire. (The upper half of 169.254.0.0/16 is full of clouds' services.)
pub const STAND_INS: [u8; 4] = [169, 254, 2, 0];
pub const STAND_INS_PREFIX: u8 = 23;
/// How many there are.
pub const STAND_INS_COUNT: u32 = 1 << (32 - STAND_INS_PREFIX);

/// Does this address stand for an ingress address?
#[inline(always)]
pub const fn is_stand_in(address_be: u32) -> bool {
    let octets = address_be.to_ne_bytes();
    octets[0] == STAND_INS[0] && octets[1] == STAND_INS[1] && octets[2] & 0xfe == STAND_INS[2]
}

/// SO_MARK of the sockets with which the agent holds published ports ("skgu"): the guard on binds lets them through, and they are no service of the node's.
/// Only CAP_NET_ADMIN sets a mark.
pub const GUARD_MARK: u32 = 0x736b_6775;

const _: () = assert!(size_of::<Dialed>() == 24);
const _: () = assert!(size_of::<DialedValue>() == 100);
