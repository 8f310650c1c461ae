//! What to do next on this node's containers, from what is wanted and what is there.
