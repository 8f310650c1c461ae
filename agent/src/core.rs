//! Pure functions of the agent: no clock, no chance, no file, no socket.

pub mod plan;
