//! Pure functions over the model: no clock, chance, file, socket or task in here.

pub mod state;
