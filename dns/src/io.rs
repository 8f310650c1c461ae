//! DNS's outside world: sockets.

pub mod tcp;
pub mod udp;
pub mod upstream;
