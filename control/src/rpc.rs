//! Node RPC: gRPC over mutual TLS on the manager's port.
//!
//! In reading order: [`wire`] (messages), [`tls`] (who is at the other end), [`gate`] (connections that can be
//! closed), [`channel`] (calling), [`client`] (the node's side), [`join`] (a new node's first
//! calls), [`server`] (the manager's side), [`inbox`] (logs that a manager waits for).

pub mod channel;
pub mod client;
pub mod gate;
pub mod inbox;
pub mod join;
pub mod server;
pub mod tls;
pub mod wire;
