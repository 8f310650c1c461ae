//! Pure packet code, shared by the eBPF attach points (`src/bin/datapath`) and the host tests.
//!
//! In reading order: [`packet`] is what a packet can do, [`parse`] reads headers, [`checksum`] and [`translate`] change
//! them, [`answer`] builds replies, [`mesh`] chooses a task; [`sockets`] is about the node's own sockets, before there is a packet.
#![no_std]

pub mod answer;
pub mod checksum;
pub mod mesh;
pub mod packet;
pub mod parse;
pub mod sockets;
pub mod translate;
