//! Tests of apply, planners and assignments together.
