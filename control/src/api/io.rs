//! The outside world of the API: the node's Docker Engine.

pub mod engine;
