//! What packet code needs of a packet: in the kernel an skb and its helpers, in tests a byte vector.

/// Offset of the IP header in an Ethernet frame without tags.
pub const L3: usize = 14;

/// A refused access: past the end, or by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// Access to a packet by helper calls. `Err` leaves the packet usable but perhaps half changed: drop it.
pub trait Packet {
    /// Reads `N` bytes.
    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], Refused>;
    /// Writes `N` bytes, checksums untouched.
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Refused>;
    /// Updates an IP header checksum for a 32-bit word that changes.
    fn replace_l3(&mut self, field: usize, from_be: u32, to_be: u32) -> Result<(), Refused>;
    /// Updates a TCP/UDP checksum for an address that changes. A UDP checksum of zero stays zero.
    fn replace_l4_address(
        &mut self,
        field: usize,
        from_be: u32,
        to_be: u32,
        udp: bool,
    ) -> Result<(), Refused>;
    /// Updates a TCP/UDP/ICMP checksum for a 16-bit word of the data that changes.
    fn replace_l4_word(&mut self, field: usize, from_be: u16, to_be: u16, udp: bool) -> Result<(), Refused>;
}

#[cfg(test)]
pub mod memory {
    //! A packet in memory.
    extern crate std;
    use super::{Packet, Refused};
    use crate::checksum::{replace16, replace32};
    use std::vec::Vec;

    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct MemoryPacket(pub Vec<u8>);

    impl MemoryPacket {
        fn change(&mut self, field: usize, udp: bool, change: impl Fn(u16) -> u16) -> Result<(), Refused> {
            let old = u16::from_be_bytes(self.load(field)?);
            if udp && old == 0 {
                return Ok(());
            }
            let new = match change(old) {
                0 if udp => 0xffff,
                new => new,
            };
            self.store(field, &new.to_be_bytes())
        }
    }

    impl Packet for MemoryPacket {
        fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], Refused> {
            let bytes = self.0.get(offset..offset + N).ok_or(Refused)?;
            bytes.try_into().map_err(|_| Refused)
        }

        fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Refused> {
            self.0
                .get_mut(offset..offset + N)
                .ok_or(Refused)?
                .copy_from_slice(bytes);
            Ok(())
        }

        fn replace_l3(&mut self, field: usize, from_be: u32, to_be: u32) -> Result<(), Refused> {
            self.change(field, false, |old| {
                replace32(old, u32::from_be(from_be), u32::from_be(to_be))
            })
        }

        fn replace_l4_address(
            &mut self,
            field: usize,
            from_be: u32,
            to_be: u32,
            udp: bool,
        ) -> Result<(), Refused> {
            self.change(field, udp, |old| {
                replace32(old, u32::from_be(from_be), u32::from_be(to_be))
            })
        }

        fn replace_l4_word(
            &mut self,
            field: usize,
            from_be: u16,
            to_be: u16,
            udp: bool,
        ) -> Result<(), Refused> {
            self.change(field, udp, |old| {
                replace16(old, u16::from_be(from_be), u16::from_be(to_be))
            })
        }
    }
}
