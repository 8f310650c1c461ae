//! The control plane: model, Raft, planners, Docker API, node RPC, certificate authority.
//!
//! In reading order:
//! - [`model`]: what is stored and what is sent; owns every persisted type.
//! - [`core`]: pure functions over the model: apply, orchestrate, schedule, assign.
//! - [`manager`]: a running manager, all that the API and the agent see of Raft and its loops.
//! - [`run`]: starts a manager: init, join, start; holds together `raft`, `rpc`, `leader` and [`ca`].
//! - [`rpc`]: node RPC; [`rpc::client`] is the node's side.
//! - [`api`]: the Docker Engine API, by [`api::serve`].
//! - [`daemon`]: what the Docker API asks of its node; the agent implements it.

pub mod api;
pub mod ca;
pub mod core;
pub mod daemon;
pub mod leader;
pub mod manager;
pub mod model;
pub mod raft;
pub mod rpc;
pub mod run;
