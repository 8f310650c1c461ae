//! Rewriting addresses and ports, in a packet or in what an ICMP error says about one.
//!
//! Only incremental checksum updates: packets between veths carry none yet (CHECKSUM_PARTIAL), and large ones are
//! segmented later.

use crate::packet::{L3, Packet, Refused};
use crate::parse::{FORM_ERROR, FORM_LATER_FRAGMENT, Headers, TCP, Tuple, UDP};

const IP_CHECKSUM: usize = L3 + 10;
const IP_SOURCE: usize = L3 + 12;
const IP_DESTINATION: usize = L3 + 16;

/// Makes a packet that is of the flow `headers.tuple` one of the flow `to`, in the same direction.
#[inline(always)]
pub fn translate<P: Packet>(packet: &mut P, headers: &Headers, to: &Tuple) -> Result<(), Refused> {
    if headers.form == FORM_ERROR {
        return translate_error(packet, headers, to);
    }
    let from = &headers.tuple;
    // A later fragment has no transport header; its first one carries the change of the whole checksum.
    let l4 = if headers.form == FORM_LATER_FRAGMENT {
        None
    } else {
        checksum_field(headers)
    };
    let udp = headers.protocol == UDP;
    if from.source_be != to.source_be {
        if let Some(field) = l4 {
            packet.replace_l4_address(field, from.source_be, to.source_be, udp)?;
        }
        set_address(packet, IP_SOURCE, from.source_be, to.source_be)?;
    }
    if from.destination_be != to.destination_be {
        if let Some(field) = l4 {
            packet.replace_l4_address(field, from.destination_be, to.destination_be, udp)?;
        }
        set_address(packet, IP_DESTINATION, from.destination_be, to.destination_be)?;
    }
    let Some(field) = l4 else { return Ok(()) };
    let ports = headers.l4 as usize;
    if from.source_port_be != to.source_port_be {
        packet.replace_l4_word(field, from.source_port_be, to.source_port_be, udp)?;
        packet.store(ports, &to.source_port_be.to_ne_bytes())?;
    }
    if from.destination_port_be != to.destination_port_be {
        packet.replace_l4_word(field, from.destination_port_be, to.destination_port_be, udp)?;
        packet.store(ports + 2, &to.destination_port_be.to_ne_bytes())?;
    }
    Ok(())
}

#[inline(always)]
fn checksum_field(headers: &Headers) -> Option<usize> {
    match headers.protocol {
        TCP => Some(headers.l4 as usize + 16),
        UDP => Some(headers.l4 as usize + 6),
        _ => None,
    }
}

#[inline(always)]
fn set_address<P: Packet>(packet: &mut P, offset: usize, from_be: u32, to_be: u32) -> Result<(), Refused> {
    packet.replace_l3(IP_CHECKSUM, from_be, to_be)?;
    packet.store(offset, &to_be.to_ne_bytes())
}

/// The embedded packet goes the other way, so its source is the flow's destination. The sum over an IP header does not
/// change when an address and the header's own checksum change together, so only ports touch the ICMP checksum. The
/// embedded transport checksum is left alone: it may be cut off, and nobody checks it.
#[inline(always)]
fn translate_error<P: Packet>(packet: &mut P, headers: &Headers, to: &Tuple) -> Result<(), Refused> {
    let from = &headers.tuple;
    // A router on the way may be the sender: its address is its own.
    if headers.source_be == from.source_be && from.source_be != to.source_be {
        set_address(packet, IP_SOURCE, from.source_be, to.source_be)?;
    }
    if from.destination_be != to.destination_be {
        set_address(packet, IP_DESTINATION, from.destination_be, to.destination_be)?;
    }
    let icmp_checksum = headers.l4 as usize + 2;
    let inner = headers.l4 as usize + 8;
    if from.destination_be != to.destination_be {
        packet.replace_l3(inner + 10, from.destination_be, to.destination_be)?;
        packet.store(inner + 12, &to.destination_be.to_ne_bytes())?;
    }
    if from.source_be != to.source_be {
        packet.replace_l3(inner + 10, from.source_be, to.source_be)?;
        packet.store(inner + 16, &to.source_be.to_ne_bytes())?;
    }
    let ports = inner + headers.embedded_header as usize;
    if from.destination_port_be != to.destination_port_be {
        packet.replace_l4_word(
            icmp_checksum,
            from.destination_port_be,
            to.destination_port_be,
            false,
        )?;
        packet.store(ports, &to.destination_port_be.to_ne_bytes())?;
    }
    if from.source_port_be != to.source_port_be {
        packet.replace_l4_word(icmp_checksum, from.source_port_be, to.source_port_be, false)?;
        packet.store(ports + 2, &to.source_port_be.to_ne_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
