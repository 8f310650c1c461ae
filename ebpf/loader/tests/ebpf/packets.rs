//! Frames as bytes, built and read without the code under test.

use std::net::Ipv4Addr;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// What a frame is about; the same for building and reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub protocol: u8,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    /// Of ICMP: the type.
    pub source_port: u16,
    /// Of ICMP: the code.
    pub destination_port: u16,
    pub flags: u8,
    pub dont_fragment: bool,
    pub payload: Vec<u8>,
}

fn ones(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])))
        .sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Frame {
    pub fn bytes(&self) -> Vec<u8> {
        let mut l4 = match self.protocol {
            TCP => {
                let mut h = vec![0; 20];
                h[4..12].copy_from_slice(&[0, 0, 0, 100, 0, 0, 0, 200]);
                h[12] = 0x50;
                h[13] = self.flags;
                h
            }
            _ => vec![0; 8],
        };
        if self.protocol == ICMP {
            l4[0] = self.source_port as u8;
            l4[1] = self.destination_port as u8;
        } else {
            l4[0..2].copy_from_slice(&self.source_port.to_be_bytes());
            l4[2..4].copy_from_slice(&self.destination_port.to_be_bytes());
        }
        l4.extend_from_slice(&self.payload);
        let length = l4.len() as u16;
        if self.protocol == UDP {
            l4[4..6].copy_from_slice(&length.to_be_bytes());
        }
        let field = match self.protocol {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
        let checksum = !folded(ones(&l4) + self.pseudo(length));
        l4[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        let mut ip = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, self.protocol, 0, 0];
        ip[2..4].copy_from_slice(&(20 + length).to_be_bytes());
        ip[6] = if self.dont_fragment { 0x40 } else { 0 };
        ip.extend_from_slice(&self.source.octets());
        ip.extend_from_slice(&self.destination.octets());
        let checksum = !folded(ones(&ip));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = [self.destination_mac, self.source_mac].concat();
        frame.extend_from_slice(&[8, 0]);
        frame.extend(ip);
        frame.extend(l4);
        frame
    }

    fn pseudo(&self, length: u16) -> u32 {
        if self.protocol == ICMP {
            return 0;
        }
        ones(&self.source.octets())
            + ones(&self.destination.octets())
            + u32::from(self.protocol)
            + u32::from(length)
    }

    /// Reads a frame; panics if a length or checksum is wrong.
    pub fn read(bytes: &[u8]) -> Self {
        assert_eq!(&bytes[12..14], &[8, 0], "IPv4");
        let ip = &bytes[14..];
        assert_eq!(ip[0], 0x45);
        assert_eq!(
            usize::from(u16::from_be_bytes([ip[2], ip[3]])),
            ip.len(),
            "IP length"
        );
        assert_eq!(folded(ones(&ip[..20])), 0xffff, "IP checksum");
        let l4 = &ip[20..];
        let protocol = ip[9];
        let header = if protocol == TCP { 20 } else { 8 };
        let word = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
        let (source_port, destination_port) = if protocol == ICMP {
            (u16::from(l4[0]), u16::from(l4[1]))
        } else {
            (word(0), word(2))
        };
        let frame = Self {
            destination_mac: bytes[0..6].try_into().expect("six bytes"),
            source_mac: bytes[6..12].try_into().expect("six bytes"),
            protocol,
            source: Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]),
            destination: Ipv4Addr::new(ip[16], ip[17], ip[18], ip[19]),
            source_port,
            destination_port,
            flags: if protocol == TCP { l4[13] } else { 0 },
            dont_fragment: ip[6] & 0x40 != 0,
            payload: l4[header..].to_vec(),
        };
        assert_eq!(
            folded(ones(l4) + frame.pseudo(l4.len() as u16)),
            0xffff,
            "transport checksum"
        );
        frame
    }
}
