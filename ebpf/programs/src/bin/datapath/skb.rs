//! The kernel's packet.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{
    bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes,
    bpf_skb_store_bytes,
};
use skep_ebpf_programs::packet::{Packet, Refused};

pub struct Skb(*mut __sk_buff);

#[inline(always)]
fn check(result: i64) -> Result<(), Refused> {
    if result == 0 { Ok(()) } else { Err(Refused) }
}

// SAFETY, for all blocks below: the context pointer is the program's own, and the verifier checks every access.
impl Skb {
    #[inline(always)]
    pub fn new(pointer: *mut __sk_buff) -> Self {
        Self(pointer)
    }

    #[inline(always)]
    pub fn raw(&self) -> *mut __sk_buff {
        self.0
    }

    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        unsafe { (*self.0).ifindex }
    }

    /// Payload bytes per segment of a packet that is segmented later; 0 otherwise.
    #[inline(always)]
    pub fn segment_size(&self) -> u32 {
        unsafe { (*self.0).gso_size }
    }

    #[inline(always)]
    pub fn set_note(&mut self, slot: usize, value: u32) {
        unsafe { (*self.0).cb[slot] = value };
    }

    #[inline(always)]
    pub fn is_for_another_host(&self) -> bool {
        unsafe { (*self.0).pkt_type == 3 }
    }

    /// PACKET_HOST: else ip_rcv drops what was addressed to another MAC.
    #[inline(always)]
    pub fn set_for_this_host(&mut self) {
        unsafe {
            if (*self.0).pkt_type != 0 {
                bpf_skb_change_type(self.0, 0);
            }
        }
    }

    /// Cuts or grows the packet; offloads of its former self are dropped.
    #[inline(always)]
    pub fn resize(&mut self, length: u32) -> Result<(), Refused> {
        check(unsafe { bpf_skb_change_tail(self.0, length, 0) })
    }

    /// Adds to a transport checksum unless something completes it later. `remainder` in network order.
    #[inline(always)]
    pub fn add_to_checksum(&mut self, field: usize, remainder_be: u16) -> Result<(), Refused> {
        check(unsafe { bpf_l4_csum_replace(self.0, field as u32, 0, u64::from(remainder_be), 0) })
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], Refused> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        let result =
            unsafe { bpf_skb_load_bytes(self.0.cast(), offset as u32, bytes.as_mut_ptr().cast(), N as u32) };
        check(result)?;
        // SAFETY: the helper wrote N bytes.
        Ok(unsafe { bytes.assume_init() })
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Refused> {
        check(unsafe { bpf_skb_store_bytes(self.0, offset as u32, bytes.as_ptr().cast(), N as u32, 0) })
    }

    #[inline(always)]
    fn replace_l3(&mut self, field: usize, from_be: u32, to_be: u32) -> Result<(), Refused> {
        check(unsafe { bpf_l3_csum_replace(self.0, field as u32, u64::from(from_be), u64::from(to_be), 4) })
    }

    #[inline(always)]
    fn replace_l4_address(
        &mut self,
        field: usize,
        from_be: u32,
        to_be: u32,
        udp: bool,
    ) -> Result<(), Refused> {
        let flags = 4 | u64::from(BPF_F_PSEUDO_HDR) | zero_flag(udp);
        check(unsafe {
            bpf_l4_csum_replace(self.0, field as u32, u64::from(from_be), u64::from(to_be), flags)
        })
    }

    #[inline(always)]
    fn replace_l4_word(&mut self, field: usize, from_be: u16, to_be: u16, udp: bool) -> Result<(), Refused> {
        let flags = 2 | zero_flag(udp);
        check(unsafe {
            bpf_l4_csum_replace(self.0, field as u32, u64::from(from_be), u64::from(to_be), flags)
        })
    }
}

#[inline(always)]
fn zero_flag(udp: bool) -> u64 {
    if udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 }
}
