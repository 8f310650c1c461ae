//! Pure functions of the node's network: no clock, no socket, no file.
//!
//! In reading order:
//! - [`wire`]: what Docker says to a network driver and hears from it.
//! - [`ledger`]: what the driver has to remember, and which of Docker's wishes it grants.
//! - [`ports`]: the published ports of the swarm.
//! - [`links`]: which interfaces are uplinks, and how large packets may be.
//! - [`tables`]: items, liveness and local endpoints to the tables of the data plane.
//! - [`firewall`]: the text of the node's nftables table.

pub mod firewall;
pub mod ledger;
pub mod links;
pub mod ports;
pub mod tables;
pub mod wire;
