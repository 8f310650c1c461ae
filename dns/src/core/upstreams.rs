//! The upstream servers of a node, from the text of its resolv.conf.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// glibc's and musl's MAXNS: further servers are not asked by anybody else either.
const MAX: usize = 3;
const PORT: u16 = 53;

/// The name servers of a resolv.conf in order (resolv.conf(5)), at most three. A server on the loopback is
/// kept: the forwarder runs on the node itself. Scoped IPv6 addresses and what is no address are left out.
pub fn upstreams(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            words.next().filter(|word| *word == "nameserver")?;
            words.next()?.parse::<IpAddr>().ok()
        })
        // 0.0.0.0 means this host (RFC 1122 section 3.2.1.3).
        .map(|address| {
            if address == Ipv4Addr::UNSPECIFIED {
                Ipv4Addr::LOCALHOST.into()
            } else {
                address
            }
        })
        .map(|address| SocketAddr::new(address, PORT))
        .take(MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_servers_in_order_and_nothing_else() {
        let text = "# nameserver 9.9.9.9\nsearch lan\nnameserver 192.0.2.1 # main\n nameserver\t::1\n\
                    nameserver fe80::1%eth0\nnameserver\nnameservers 1.1.1.1\nnameserver 0.0.0.0\n\
                    nameserver 192.0.2.4\n";
        let expected: Vec<SocketAddr> = ["192.0.2.1:53", "[::1]:53", "127.0.0.1:53"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(upstreams(text), expected);
    }
}
