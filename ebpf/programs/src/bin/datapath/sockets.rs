//! Programs on the node's own sockets, at the root of the cgroups: what they dial, what they are told, what they bind.
//!
//! They run for every process of the machine, so the first question is whether the socket is in this node's network
//! namespace. What is dialed becomes the mesh address, on which `from_host` takes the packets as it does those of bridged
//! containers; answers and getpeername(2) show what was dialed.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::{
    bpf_get_netns_cookie, bpf_set_retval, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release,
};
use aya_ebpf::macros::{btf_map, cgroup_sock_addr};
use aya_ebpf::programs::SockAddrContext;
use skep_ebpf_common::state::TCP;
use skep_ebpf_common::{Address, DialedValue, GUARD_MARK, LocalAddressValue, PublishedKey};
use skep_ebpf_programs::sockets::{self, Node};

use crate::maps::{LOCAL_ADDRESSES, PUBLISHED, is_of_host, mesh_address_be};

/// What a socket dialed.
#[btf_map]
static DIALED: SkStorage<DialedValue> = SkStorage::new();
/// SO_NETNS_COOKIE of the node's namespace.
#[unsafe(no_mangle)]
static NODE_COOKIE: Global<u64> = Global::new(0);

const PROCEED: i32 = 1;
const REFUSE: i32 = 0;
const EADDRINUSE: i32 = 98;

/// Sizes of `struct bpf_sock_tuple` by family; the helpers tell the families apart by them.
const TUPLE_V4: u32 = 12;
const TUPLE_V6: u32 = 36;

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

struct Socket<'a>(&'a SockAddrContext);

// SAFETY, for all blocks below: the context pointer is the program's own, and the verifier checks every access. Each is
// volatile, so that none is merged with a neighbour or reached by a computed pointer: the verifier refuses both.
impl Socket<'_> {
    #[inline(always)]
    fn is_of_this_node(&self) -> bool {
        unsafe { bpf_get_netns_cookie(self.0.sock_addr.cast()) == NODE_COOKIE.load() }
    }

    #[inline(always)]
    fn protocol(&self) -> u16 {
        unsafe { read_volatile(&raw const (*self.0.sock_addr).protocol) as u16 }
    }

    #[inline(always)]
    fn port_be(&self) -> u16 {
        unsafe { read_volatile(&raw const (*self.0.sock_addr).user_port) as u16 }
    }

    #[inline(always)]
    fn address(&self, family: Family) -> Address {
        let raw = self.0.sock_addr;
        match family {
            Family::V4 => Address::v4(unsafe { read_volatile(&raw const (*raw).user_ip4) }),
            Family::V6 => unsafe {
                Address {
                    words_be: [
                        read_volatile(&raw const (*raw).user_ip6[0]),
                        read_volatile(&raw const (*raw).user_ip6[1]),
                        read_volatile(&raw const (*raw).user_ip6[2]),
                        read_volatile(&raw const (*raw).user_ip6[3]),
                    ],
                }
            },
        }
    }

    #[inline(always)]
    fn set_address(&self, family: Family, address: &Address) {
        let raw = self.0.sock_addr;
        match family {
            Family::V4 => unsafe { write_volatile(&raw mut (*raw).user_ip4, address.words_be[3]) },
            Family::V6 => unsafe {
                write_volatile(&raw mut (*raw).user_ip6[0], address.words_be[0]);
                write_volatile(&raw mut (*raw).user_ip6[1], address.words_be[1]);
                write_volatile(&raw mut (*raw).user_ip6[2], address.words_be[2]);
                write_volatile(&raw mut (*raw).user_ip6[3], address.words_be[3]);
            },
        }
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        unsafe { (*(*self.0.sock_addr).__bindgen_anon_1.sk).mark }
    }

    /// Bound to an IPv6 address that is no mapped one: no IPv4 destination can be reached from there.
    #[inline(always)]
    fn is_bound_to_v6(&self) -> bool {
        let source = unsafe { (*(*self.0.sock_addr).__bindgen_anon_1.sk).src_ip6 };
        let source = Address { words_be: source };
        !source.is_none() && source.to_v4().is_none()
    }
}

impl Node for Socket<'_> {
    #[inline(always)]
    fn local(&mut self, address: &Address) -> Option<LocalAddressValue> {
        unsafe { LOCAL_ADDRESSES.get(*address) }.copied()
    }

    #[inline(always)]
    fn mesh_address(&mut self) -> u32 {
        mesh_address_be()
    }

    #[inline(always)]
    fn is_published(&mut self, protocol: u16, address_be: u32, port_be: u16) -> bool {
        let address = if address_be == mesh_address_be() {
            Address::default()
        } else {
            Address::v4(address_be)
        };
        let key = PublishedKey {
            address,
            protocol,
            port_be,
        };
        unsafe { PUBLISHED.get(key) }.is_some()
    }

    #[inline(always)]
    fn is_served(&mut self, protocol: u16, address: &Address, port_be: u16) -> bool {
        // SAFETY: all zero is a valid tuple. A source of zeros is nobody's, so no connection is found.
        let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
        let size = match address.to_v4() {
            Some(address_be) => {
                tuple.__bindgen_anon_1.ipv4.daddr = address_be;
                tuple.__bindgen_anon_1.ipv4.dport = port_be;
                TUPLE_V4
            }
            None => {
                tuple.__bindgen_anon_1.ipv6.daddr = address.words_be;
                tuple.__bindgen_anon_1.ipv6.dport = port_be;
                TUPLE_V6
            }
        };
        let here = BPF_F_CURRENT_NETNS as u64;
        let context = self.0.sock_addr.cast();
        let found = unsafe {
            if protocol == u16::from(TCP) {
                bpf_sk_lookup_tcp(context, &mut tuple, size, here, 0)
            } else {
                bpf_sk_lookup_udp(context, &mut tuple, size, here, 0)
            }
        };
        if found.is_null() {
            return false;
        }
        unsafe {
            let mark = (*found).mark;
            bpf_sk_release(found.cast());
            mark != GUARD_MARK
        }
    }
}

#[inline(always)]
fn dial(context: &SockAddrContext, family: Family) -> i32 {
    let mut socket = Socket(context);
    if !socket.is_of_this_node() {
        return PROCEED;
    }
    let (address, port_be) = (socket.address(family), socket.port_be());
    let protocol = socket.protocol();
    let Some(stand_in_be) = sockets::destination(&mut socket, protocol, &address, port_be) else {
        return PROCEED;
    };
    if matches!(family, Family::V6) && socket.is_bound_to_v6() {
        return PROCEED;
    }
    // SAFETY: the value is the socket's own; the verifier knows its size. Without memory for it the connection works all
    // the same, and shows where it leads.
    let value = unsafe { DIALED.get_or_insert_ptr_mut(context, None) };
    if let Some(value) = unsafe { value.as_mut() } {
        sockets::remember(value, &address, stand_in_be, port_be);
    }
    socket.set_address(family, &Address::v4(stand_in_be));
    PROCEED
}

/// These programs cannot refuse anything.
#[inline(always)]
fn tell(context: &SockAddrContext, family: Family) -> i32 {
    let socket = Socket(context);
    let Some(stand_in_be) = socket.address(family).to_v4() else {
        return PROCEED;
    };
    if !is_of_host(stand_in_be) || !socket.is_of_this_node() {
        return PROCEED;
    }
    // SAFETY: as above.
    let value = unsafe { DIALED.get_ptr_mut(context) };
    if let Some(value) = unsafe { value.as_ref() }
        && let Some(dialed) = sockets::recall(value, stand_in_be, socket.port_be())
    {
        socket.set_address(family, &dialed);
    }
    PROCEED
}

#[inline(always)]
fn guard(context: &SockAddrContext, family: Family) -> i32 {
    let mut socket = Socket(context);
    if !socket.is_of_this_node() || socket.mark() == GUARD_MARK {
        return PROCEED;
    }
    let (address, port_be) = (socket.address(family), socket.port_be());
    let protocol = socket.protocol();
    if !sockets::is_guarded(&mut socket, protocol, &address, port_be) {
        return PROCEED;
    }
    // SAFETY: plain numbers. Without this the error were EPERM.
    unsafe { bpf_set_retval(-EADDRINUSE) };
    REFUSE
}

macro_rules! program {
    ($(#[$about:meta])* $name:ident, $hook:ident, $function:ident, $family:ident) => {
        $(#[$about])*
        #[cgroup_sock_addr($hook)]
        pub fn $name(context: SockAddrContext) -> i32 {
            $function(&context, Family::$family)
        }
    };
}

program!(socket_connect4, connect4, dial, V4);
program!(
    /// IPv4 addresses in their mapped form, and ::1.
    socket_connect6, connect6, dial, V6
);
program!(
    /// The kernel runs it for mapped addresses too; and there is no way from ::1 to IPv4 without connect(2).
    socket_sendmsg4, sendmsg4, dial, V4
);
program!(socket_recvmsg4, recvmsg4, tell, V4);
program!(socket_recvmsg6, recvmsg6, tell, V6);
program!(socket_getpeername4, getpeername4, tell, V4);
program!(socket_getpeername6, getpeername6, tell, V6);
program!(socket_bind4, bind4, guard, V4);
program!(socket_bind6, bind6, guard, V6);
