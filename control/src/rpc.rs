//! Node RPC: gRPC over mutual TLS on the manager's port.

pub mod client;
