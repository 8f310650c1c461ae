//! The node agent: makes this node look like its assignments.
//!
//! In reading order:
//! - [`agent`], [`cli`]: the two halves of the command: the node agent, and what asks it.
//! - [`core`]: pure functions: plan, container configuration, templates.
//! - [`io`]: the outside world: Docker Engine, files.
//! - [`daemon`]: this node as its Docker API sees it: init, join, leave, plain containers on overlays.
//! - [`member`]: the tasks that run while the node is in a swarm, and which channel each reads and writes.
//! - [`session`]: assignments in, reports out.
//! - [`reconciler`]: observe, plan, execute, report.
//! - [`network`]: the node's network: Docker driver, links, firewall, data plane tables, DNS.
//! - [`logs`]: logs of this node's containers, for managers elsewhere.
//! - [`ingress`]: addresses that belong to the swarm: what holding one means on this node.
//! - [`probe`]: who of the other nodes is alive, by probes over the underlay.

pub mod agent;
pub mod cli;
pub mod core;
pub mod daemon;
pub mod ingress;
pub mod io;
pub mod logs;
pub mod member;
pub mod network;
pub mod probe;
pub mod reconciler;
pub mod session;
