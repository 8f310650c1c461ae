//! The netns cluster harness, shared by tests and the demo.
//!
//! A cluster is a switch, a client and some nodes on one L2 segment, each in namespaces of its own:
//!
//! - [`cluster`]: builds them in parallel, cuts links, kills nodes;
//! - [`node`]: one machine: dockerd, the agent, the stock docker CLI against either;
//! - [`client`]: requests from outside;
//! - [`session`]: long-lived sessions, connects and questions from outside, and how they fared;
//! - [`pause`]: stopping and starving a node's processes;
//! - [`router`]: a router between client and nodes;
//! - [`watcher`]: who answers ARP for an address;
//! - [`space`]: namespaces held by a first process whose death ends everything in them;
//! - [`network`]: links and addresses;
//! - [`images`]: test images without a registry;
//! - [`testbox`]: the static program inside nodes and images;
//! - [`runs`]: what a run leaves on the machine, and its removal, now or by the next run;
//! - [`command`]: child processes with a deadline;
//! - [`swarm`]: what tests ask a swarm;
//! - [`http`]: raw requests to a node's API;
//! - [`tools`]: clients that others wrote, installed for the tests;
//! - [`suite`]: a test runner whose tests share one cluster.

pub mod client;
pub mod cluster;
pub mod command;
pub mod http;
pub mod images;
pub mod network;
pub mod node;
pub mod pause;
pub mod router;
pub mod runs;
pub mod session;
pub mod space;
pub mod suite;
pub mod swarm;
pub mod testbox;
pub mod tools;
pub mod wait;
pub mod watcher;

pub use client::{Client, Reply, Seen};
pub use cluster::{Cluster, ClusterFile};
pub use command::Output;
pub use node::Node;
pub use session::{Answered, Connected, Session, SessionKind};
pub use wait::until;

use std::path::{Path, PathBuf};

/// The checkout this library was built from.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
}

/// Where builds, cached images and logs go.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}
