//! Pure functions over the model: no clock, chance, file, socket or task in here.
//!
//! [`apply`] folds the log to the state; [`plan`] is what the leader does next; [`assign`] is what a node is told.

mod address;
pub mod apply;
pub mod assign;
pub mod constraint;
pub mod dirty;
mod duration;
pub mod failures;
mod generic;
pub mod ingress;
mod placement;
pub mod plan;
pub mod rollout;
pub mod root;
pub mod snapshot;
pub mod state;
mod validate;

#[cfg(test)]
mod tests;
