//! The node agent: makes this node look like its assignments.
//!
//! In reading order:
//! - [`core`]: pure functions: plan, container configuration, templates.
//! - [`io`]: the outside world: Docker Engine, files.
//! - [`network`]: the node's network: Docker driver, links, firewall, data plane tables, DNS.
//! - [`probe`]: who of the other nodes is alive, by probes over the underlay.

pub mod core;
pub mod io;
pub mod network;
pub mod probe;
