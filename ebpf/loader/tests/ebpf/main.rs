//! The data plane in the kernel: packets through BPF_PROG_TEST_RUN, and real traffic between namespaces.
//! Needs root, and says so instead of being skipped.

mod cases;
mod ingress;
mod ingress_cases;
mod lab;
mod lifecycle;
mod mesh_traffic;
mod overlay_traffic;
mod packets;
mod peers;
mod pressure;
mod restarts;
mod second_chance;
mod sockets;
mod traffic;
