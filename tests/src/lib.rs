//! The netns cluster harness, shared by tests and the demo.
