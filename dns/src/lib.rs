//! Service discovery DNS: answers from an immutable table, or forwards.
//!
//! The crate knows nothing of services or Raft: the agent hands over whole tables. In reading order:
//! - [`table`]: the data an answer is made from;
//! - [`core`]: pure: question to answer, bytes to step, the cache of forwarded answers;
//! - [`service`]: one query from bytes to bytes, for both transports;
//! - [`io`]: UDP and TCP listeners, and the exchange with upstream servers;
//! - [`server`]: start and stop.
//!
//! Tasks: one for UDP and one for TCP, each with its bounded set of children. Both read the table from
//! a watch channel and write to nobody.
//!
//! Of hickory only the message format is used. Its server starts one task per datagram and accepts
//! connections without a bound and logs each query; its resolver turns an upstream's answer into
//! records and loses the rest. Both are short enough to have here with their limits in sight.

pub mod core;
mod io;
pub mod server;
mod service;
pub mod table;

pub use server::{Server, ServerError};
pub use table::{Client, Table, Zone};
