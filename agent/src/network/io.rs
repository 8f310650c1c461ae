//! The outside world of the node's network, one file per external system.

pub mod driver_socket;
pub mod engine;
pub mod guard;
pub mod iptables;
pub mod ledger_file;
pub mod links;
pub mod nft;
pub mod resolv_conf;
pub mod sysctl;
