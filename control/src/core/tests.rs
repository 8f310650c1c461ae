//! Tests of apply, planners and assignments together.

mod bytes;
mod golden;
mod ingress;
mod properties;
mod script;
mod world;
