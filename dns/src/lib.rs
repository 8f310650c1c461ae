//! Service discovery DNS: answers from an immutable table, or forwards.
