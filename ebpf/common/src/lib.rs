//! The bytes that kernel and user space share.
#![no_std]
