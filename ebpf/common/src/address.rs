//! Addresses: IP (16 bytes, IPv4 mapped) and the MAC addresses that follow from them.

/// An IPv6 address, or an IPv4 one as `::ffff:a.b.c.d`, as four words in network byte order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Address {
    pub words_be: [u32; 4],
}

impl Address {
    /// The mapped form of an IPv4 address.
    #[inline(always)]
    pub const fn v4(address_be: u32) -> Self {
        Self {
            words_be: [0, 0, 0xffff_u32.to_be(), address_be],
        }
    }

    /// The IPv4 address, if it is one.
    #[inline(always)]
    pub const fn to_v4(self) -> Option<u32> {
        if self.words_be[0] == 0 && self.words_be[1] == 0 && self.words_be[2] == 0xffff_u32.to_be() {
            Some(self.words_be[3])
        } else {
            None
        }
    }

    /// All zero: "none".
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.words_be[0] == 0 && self.words_be[1] == 0 && self.words_be[2] == 0 && self.words_be[3] == 0
    }
}

/// The one router every container sees, on every node and network.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x42, 0x00, 0x00, 0x00, 0x01];

/// The MAC address of the endpoint with this IPv4 address: 02:42:a:b:c:d.
#[inline(always)]
pub const fn endpoint_mac(address_be: u32) -> [u8; 6] {
    let octets = address_be.to_ne_bytes();
    [0x02, 0x42, octets[0], octets[1], octets[2], octets[3]]
}

/// Kind byte of a mesh packet on its way to a task.
pub const MESH_FORWARD: u8 = 1;
/// Kind byte of a mesh packet on its way back to the client.
pub const MESH_REPLY: u8 = 2;

/// Inner destination MAC of a mesh packet: its kind, and how often it was forwarded.
#[inline(always)]
pub const fn mesh_hop_mac(kind: u8, hop: u8) -> [u8; 6] {
    [0x02, 0x53, 0x4b, kind, hop, 0]
}

/// Inner source MAC of a mesh packet: the node the client came in through.
#[inline(always)]
pub const fn mesh_node_mac(node: u32) -> [u8; 6] {
    let bytes = node.to_be_bytes();
    [0x02, 0x53, bytes[0], bytes[1], bytes[2], bytes[3]]
}
