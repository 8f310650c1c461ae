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

/// `MeshHeader::kind`: on its way to a task.
pub const MESH_FORWARD: u8 = 1;
/// `MeshHeader::kind`: on its way back to the client.
pub const MESH_REPLY: u8 = 2;

/// `MeshHeader::flags`: an ingress address was dialed.
pub const MESH_INGRESS: u8 = 1;
/// `MeshHeader::flags`: only ports that name the dialed address answer on it.
pub const MESH_DEDICATED: u8 = 2;
/// `MeshHeader::flags`: the entry node has looked among its own tasks.
pub const MESH_ENTRY_ASKED: u8 = 4;

/// `MeshHeader::flags`: not to be opened as a new flow here; somebody else may know it.
pub const MESH_ASK: u8 = 8;
/// `MeshHeader::flags`: nobody knows its flow; the first task here opens it.
pub const MESH_SETTLE: u8 = 16;

/// Nodes that a mesh packet can name as asked already, beside the one it came in through.
pub const ASKED: usize = 3;

/// What the inner MAC addresses of a mesh packet say. A packet of the first hop to an address of the node, and a reply, look
/// as they always did, so that nodes of another version take them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MeshHeader {
    pub kind: u8,
    /// How often it was sent from node to node.
    pub hop: u8,
    pub flags: u8,
    /// Fingerprints of nodes that did not know its flow, see [`crate::hash::fingerprint`]; 0: none.
    pub asked: [u8; ASKED],
    /// Node the client came in through; of a reply, the task's.
    pub node: u32,
}

impl MeshHeader {
    /// A reply from this node.
    #[inline(always)]
    pub const fn reply(node: u32) -> Self {
        Self {
            kind: MESH_REPLY,
            hop: 0,
            flags: 0,
            asked: [0; ASKED],
            node,
        }
    }

    /// Destination and source MAC address.
    #[inline(always)]
    pub const fn macs(self) -> ([u8; 6], [u8; 6]) {
        let [a, b, c] = self.asked;
        let n = self.node.to_be_bytes();
        (
            [0x02, 0x53 ^ a, 0x4b ^ b, self.kind, self.hop, self.flags],
            [0x02, 0x53 ^ c, n[0], n[1], n[2], n[3]],
        )
    }

    #[inline(always)]
    pub const fn read(destination: [u8; 6], source: [u8; 6]) -> Option<Self> {
        let (d, s) = (destination, source);
        if d[0] != 0x02 || s[0] != 0x02 {
            return None;
        }
        Some(Self {
            kind: d[3],
            hop: d[4],
            flags: d[5],
            asked: [d[1] ^ 0x53, d[2] ^ 0x4b, s[1] ^ 0x53],
            node: u32::from_be_bytes([s[2], s[3], s[4], s[5]]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mesh_headers_are_read_as_written() {
        let header = MeshHeader {
            kind: MESH_FORWARD,
            hop: 2,
            flags: MESH_INGRESS,
            asked: [7, 0, 255],
            node: 0x0102_0304,
        };
        let (destination, source) = header.macs();
        assert_eq!(MeshHeader::read(destination, source), Some(header));
        assert_eq!(MeshHeader::read([0xff; 6], source), None);
    }

    #[test]
    fn replies_look_as_they_always_did() {
        let (destination, source) = MeshHeader::reply(1).macs();
        assert_eq!(destination, [2, 0x53, 0x4b, 2, 0, 0]);
        assert_eq!(source, [2, 0x53, 0, 0, 0, 1]);
    }
}
