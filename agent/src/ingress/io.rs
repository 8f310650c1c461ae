//! The outside world of ingress addresses, one file per external system.

pub mod caretaker;
pub mod foreign;
pub mod hook;
pub mod interfaces;
pub mod raw;
pub mod router;
pub mod sink;
