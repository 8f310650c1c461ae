//! Headers, read from a packet into plain numbers.

pub use skep_ebpf_common::state::{TCP, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

use crate::packet::{L3, Packet};

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;

pub const ICMP: u8 = 1;
pub const UDP: u8 = 17;

pub const ICMP_ECHO_REPLY: u8 = 0;
pub const ICMP_UNREACHABLE: u8 = 3;
pub const ICMP_ECHO_REQUEST: u8 = 8;
pub const ICMP_TIME_EXCEEDED: u8 = 11;
pub const ICMP_PARAMETER: u8 = 12;

/// An Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ethernet {
    pub destination: [u8; 6],
    pub source: [u8; 6],
    pub ethertype: u16,
}

/// `None`: shorter than the header.
#[inline(always)]
pub fn ethernet<P: Packet>(packet: &P) -> Option<Ethernet> {
    let b: [u8; L3] = packet.load(0).ok()?;
    Some(Ethernet {
        destination: [b[0], b[1], b[2], b[3], b[4], b[5]],
        source: [b[6], b[7], b[8], b[9], b[10], b[11]],
        ethertype: u16::from_be_bytes([b[12], b[13]]),
    })
}

/// Addresses and ports, all in network order. Ports are 0 where there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tuple {
    pub source_be: u32,
    pub destination_be: u32,
    pub source_port_be: u16,
    pub destination_port_be: u16,
}

impl Tuple {
    /// The tuple of the packet that would answer this one.
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self {
            source_be: self.destination_be,
            destination_be: self.source_be,
            source_port_be: self.destination_port_be,
            destination_port_be: self.source_port_be,
        }
    }
}

/// `Headers::form`: TCP, UDP or an ICMP message of its own.
pub const FORM_WHOLE: u8 = 0;
/// `Headers::form`: first fragment; it has the ports.
pub const FORM_FIRST_FRAGMENT: u8 = 1;
/// `Headers::form`: later fragment; `tuple` has no ports.
pub const FORM_LATER_FRAGMENT: u8 = 2;
/// `Headers::form`: an ICMP error about a packet of a flow. `tuple` and `protocol` are what a packet of that flow would
/// have that goes in the error's own direction: the embedded tuple, reversed.
pub const FORM_ERROR: u8 = 3;

/// What the programs know about an IPv4 packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Headers {
    /// For flow look-up; see [`FORM_ERROR`].
    pub tuple: Tuple,
    /// The packet's own addresses.
    pub source_be: u32,
    pub destination_be: u32,
    /// Length of the IP packet in bytes as its header says.
    pub length: u16,
    pub id_be: u16,
    /// Of the flow; see [`FORM_ERROR`].
    pub protocol: u8,
    pub tcp_flags: u8,
    pub icmp_type: u8,
    pub form: u8,
    /// Offset of the transport header in the frame.
    pub l4: u8,
    /// The sender forbids fragments.
    pub dont_fragment: u8,
    /// Length of the transport header; 0 where unknown.
    pub l4_header: u8,
    /// Of an ICMP error: length of the embedded IP header.
    pub embedded_header: u8,
}

impl Headers {
    /// Can this packet open a flow?
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        match self.protocol {
            TCP => self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN && self.form != FORM_ERROR,
            UDP => self.form != FORM_ERROR,
            _ => false,
        }
    }

    /// Does this packet answer the first of a TCP flow?
    #[inline(always)]
    pub const fn accepts(&self) -> bool {
        let both = TCP_SYN | TCP_ACK;
        self.protocol == TCP && self.tcp_flags & both == both && self.form != FORM_ERROR
    }
}

/// Reads the IPv4 packet in an Ethernet frame. `None`: malformed or cut off.
#[inline(always)]
pub fn ipv4<P: Packet>(packet: &P) -> Option<Headers> {
    let b: [u8; 20] = packet.load(L3).ok()?;
    let header = (b[0] & 0x0f) << 2;
    if b[0] >> 4 != 4 || header < 20 {
        return None;
    }
    let fragment = u16::from_be_bytes([b[6], b[7]]);
    let mut headers = Headers {
        source_be: u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        destination_be: u32::from_ne_bytes([b[16], b[17], b[18], b[19]]),
        length: u16::from_be_bytes([b[2], b[3]]),
        id_be: u16::from_ne_bytes([b[4], b[5]]),
        protocol: b[9],
        l4: L3 as u8 + header,
        dont_fragment: (fragment & 0x4000 != 0) as u8,
        form: if fragment & 0x1fff != 0 {
            FORM_LATER_FRAGMENT
        } else if fragment & 0x2000 != 0 {
            FORM_FIRST_FRAGMENT
        } else {
            FORM_WHOLE
        },
        ..Headers::default()
    };
    headers.tuple.source_be = headers.source_be;
    headers.tuple.destination_be = headers.destination_be;
    if headers.form == FORM_LATER_FRAGMENT {
        return Some(headers);
    }
    transport(packet, &mut headers)?;
    Some(headers)
}

#[inline(always)]
fn transport<P: Packet>(packet: &P, headers: &mut Headers) -> Option<()> {
    let l4 = headers.l4 as usize;
    match headers.protocol {
        TCP => {
            let b: [u8; 14] = packet.load(l4).ok()?;
            set_ports(&mut headers.tuple, [b[0], b[1], b[2], b[3]]);
            headers.tcp_flags = b[13];
            headers.l4_header = (b[12] >> 4) << 2;
        }
        UDP => {
            set_ports(&mut headers.tuple, packet.load(l4).ok()?);
            headers.l4_header = 8;
        }
        ICMP => {
            let b: [u8; 8] = packet.load(l4).ok()?;
            headers.icmp_type = b[0];
            headers.l4_header = 8;
            if matches!(b[0], ICMP_UNREACHABLE | ICMP_TIME_EXCEEDED | ICMP_PARAMETER) {
                return embedded(packet, headers);
            }
        }
        _ => {}
    }
    Some(())
}

/// An error whose embedded packet cannot be read is an ordinary ICMP packet: no flow will match it.
#[inline(always)]
fn embedded<P: Packet>(packet: &P, headers: &mut Headers) -> Option<()> {
    let start = headers.l4 as usize + 8;
    let b: [u8; 20] = packet.load(start).ok()?;
    let header = (b[0] & 0x0f) << 2;
    let later_fragment = u16::from_be_bytes([b[6], b[7]]) & 0x1fff != 0;
    if b[0] >> 4 != 4 || header < 20 || later_fragment || !matches!(b[9], TCP | UDP) {
        return Some(());
    }
    let ports: [u8; 4] = packet.load(start + header as usize).ok()?;
    let mut inner = Tuple {
        source_be: u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        destination_be: u32::from_ne_bytes([b[16], b[17], b[18], b[19]]),
        ..Tuple::default()
    };
    set_ports(&mut inner, ports);
    headers.tuple = inner.reversed();
    headers.protocol = b[9];
    headers.tcp_flags = TCP_ACK;
    headers.form = FORM_ERROR;
    headers.embedded_header = header;
    Some(())
}

#[inline(always)]
fn set_ports(tuple: &mut Tuple, b: [u8; 4]) {
    tuple.source_port_be = u16::from_ne_bytes([b[0], b[1]]);
    tuple.destination_port_be = u16::from_ne_bytes([b[2], b[3]]);
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    pub request: bool,
    pub sender_mac: [u8; 6],
    pub sender_be: u32,
    pub target_be: u32,
}

/// `None`: not ARP for IPv4 over Ethernet, or cut off.
#[inline(always)]
pub fn arp<P: Packet>(packet: &P) -> Option<Arp> {
    let b: [u8; 28] = packet.load(L3).ok()?;
    if [b[0], b[1], b[2], b[3], b[4], b[5], b[6]] != [0, 1, 8, 0, 6, 4, 0] {
        return None;
    }
    Some(Arp {
        request: b[7] == 1,
        sender_mac: [b[8], b[9], b[10], b[11], b[12], b[13]],
        sender_be: u32::from_ne_bytes([b[14], b[15], b[16], b[17]]),
        target_be: u32::from_ne_bytes([b[24], b[25], b[26], b[27]]),
    })
}
