//! What a program decided, as tests read it from `skb->cb`, and as the counters count it.

/// `cb[0]`: handed to the node's stack.
pub const VERDICT_PASS: u32 = 1;
/// `cb[0]`: redirected; `cb[1]` says how, `cb[2]` is the interface, `cb[3]` the VNI, `cb[4]` the outer IPv4 address (host order).
pub const VERDICT_REDIRECT: u32 = 2;
/// `cb[0]`: dropped; `cb[1]` is the [`crate::DropReason`]. An answer (RST, ICMP error) may have been sent: then `cb[2]` is its interface.
pub const VERDICT_DROP: u32 = 3;

/// `cb[1]`: into the peer of the interface's veth.
pub const REDIRECT_PEER: u32 = 1;
/// `cb[1]`: out of the interface, with the next hop's MAC looked up.
pub const REDIRECT_NEIGH: u32 = 2;
/// `cb[1]`: out of the interface as it is.
pub const REDIRECT_PLAIN: u32 = 3;
/// `cb[1]`: through the VXLAN device.
pub const REDIRECT_TUNNEL: u32 = 4;

/// Slots of the counter map: received, passed, redirected, dropped.
pub const COUNTER_SLOTS: u32 = 4;
/// Slots of the drop map: more than there are reasons, so that a new reason needs no new map.
pub const DROP_SLOTS: u32 = 64;
