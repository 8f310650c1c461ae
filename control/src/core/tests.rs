//! Tests of apply, planners and assignments together.

mod bytes;
mod golden;
mod properties;
mod script;
mod world;
