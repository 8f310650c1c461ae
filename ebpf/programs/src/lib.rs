//! Pure packet code, shared by the eBPF attach points and the host tests.
#![no_std]
