//! The text of the node's nftables table and its rules in Docker's chain. Both are recomputed whole.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use skep_ebpf_loader::{Protocol, STAND_INS, STAND_INS_PREFIX, Tables, stand_ins};

use crate::network::core::ledger::{Local, PortRecord};
use crate::network::core::links::{ENDPOINT_GROUP, HOST_NAME, NAME_PREFIX};
use crate::network::core::ports::{Port, protocol_name};

/// Name of our table, in family inet.
pub const TABLE: &str = "skep";

/// What the table depends on.
#[derive(Debug, Clone)]
pub struct FirewallInputs<'a> {
    /// Published ports that this node answers.
    pub ports: &'a BTreeSet<Port>,
    /// Ports that name their ingress address.
    pub dedicated: Vec<Dedicated>,
    /// Plugged-in endpoints, for `docker run -p`.
    pub locals: Vec<&'a Local>,
    /// Stands for "a published port of this node".
    pub mesh_address: Ipv4Addr,
    /// The node's own connections to published ports have it as their source.
    pub node_address: Ipv4Addr,
}

/// A port that only one ingress address answers on, and what stands for that in the node's own traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dedicated {
    pub address: Ipv4Addr,
    pub stand_in: Ipv4Addr,
    pub port: Port,
}

/// The ports of dedicated addresses in the tables.
pub fn dedicated(tables: &Tables) -> Vec<Dedicated> {
    let stand_ins = stand_ins(&tables.ingress);
    let ports = tables.published.iter().filter_map(|entry| {
        let address = entry.ingress_address?;
        let stand_in = *stand_ins.get(&address)?;
        let IpAddr::V4(address) = address else { return None };
        let port = Port {
            protocol: entry.protocol,
            number: entry.published_port,
        };
        Some(Dedicated {
            address,
            stand_in,
            port,
        })
    });
    let mut found: Vec<Dedicated> = ports.collect();
    found.sort_unstable();
    found
}

/// The script for `nft -f`: replaces the table in one transaction.
///
/// - Containers reach the outside under the node's address, in both directions through the kernel's stack.
/// - Connections of containers on other networks of the node to a published port on any of its addresses become mesh flows
///   by way of `skep0`: they come in through bridges that carry no program of ours. (Outside clients never get here: the
///   uplink's program takes their packets first. The node's own processes do not either: the programs on their sockets
///   make them dial the mesh address; only their source may have to change, if it is the loopback's.)
/// - No container reaches what listens on the node's loopback.
/// - Nobody outside an overlay opens a connection into it, but by a published port.
pub fn script(inputs: &FirewallInputs<'_>) -> String {
    let to_mesh = dedicated_rules(inputs) + &mesh_rules(inputs);
    let stand_ins = format!("{}/{STAND_INS_PREFIX}", Ipv4Addr::from(STAND_INS));
    let to_containers = port_rules(inputs);
    let mesh = inputs.mesh_address;
    let node = inputs.node_address;
    let group = ENDPOINT_GROUP;
    format!(
        "table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
\tchain loopback {{
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tiifgroup {group} ip daddr 127.0.0.0/8 counter drop
\t}}
\tchain prerouting {{
\t\ttype nat hook prerouting priority dstnat; policy accept;
{to_mesh}{to_containers}\t}}
\tchain output {{
\t\ttype nat hook output priority -100; policy accept;
{to_containers}\t}}
\tchain postrouting {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\toifname \"{HOST_NAME}\" ip daddr {{ {mesh}, {stand_ins} }} snat ip to {node}
\t\tiifgroup {group} oifgroup != {group} oifname != \"{HOST_NAME}\" meta nfproto ipv4 masquerade
\t\toifgroup {group} ip saddr 127.0.0.0/8 snat ip to {node}
\t}}
\tchain forward {{
\t\ttype filter hook forward priority filter; policy accept;
\t\toifgroup {group} ct state new ct status & dnat == 0 counter drop
\t\toifname \"{HOST_NAME}\" ct state new ct status & dnat == 0 counter drop
\t}}
\tchain own {{
\t\ttype filter hook output priority filter; policy accept;
\t\toifgroup {group} ct state new ct status & dnat == 0 counter reject with icmpx type admin-prohibited
\t}}
}}
"
    )
}

/// Ports of single ingress addresses, wherever these are held; nothing else answers there.
fn dedicated_rules(inputs: &FirewallInputs<'_>) -> String {
    let mut rules = String::new();
    for entry in &inputs.dedicated {
        let Dedicated {
            address,
            stand_in,
            port,
        } = entry;
        let (name, number) = (protocol_name(port.protocol), port.number);
        let rule =
            format!("\t\tmeta nfproto ipv4 ip daddr {address} {name} dport {number} dnat ip to {stand_in}\n");
        rules.push_str(&rule);
    }
    let addresses: BTreeSet<Ipv4Addr> = inputs.dedicated.iter().map(|entry| entry.address).collect();
    for address in addresses {
        rules.push_str(&format!("\t\tmeta nfproto ipv4 ip daddr {address} accept\n"));
    }
    rules
}

/// Published ports of the swarm on this node's addresses.
fn mesh_rules(inputs: &FirewallInputs<'_>) -> String {
    let mut rules = String::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let numbers: Vec<String> = inputs
            .ports
            .iter()
            .filter(|port| port.protocol == protocol)
            .map(|port| port.number.to_string())
            .collect();
        if numbers.is_empty() {
            continue;
        }
        let name = protocol_name(protocol);
        let list = numbers.join(", ");
        let mesh = inputs.mesh_address;
        let rule = format!(
            "\t\tmeta nfproto ipv4 ip daddr != {mesh} fib daddr type local {name} dport {{ {list} }} dnat ip to {mesh}\n"
        );
        rules.push_str(&rule);
    }
    rules
}

/// `docker run -p` of containers on overlays.
fn port_rules(inputs: &FirewallInputs<'_>) -> String {
    let mut rules = String::new();
    for local in &inputs.locals {
        for record in &local.ports {
            rules.push_str(&port_rule(local, record));
        }
    }
    rules
}

fn port_rule(local: &Local, record: &PortRecord) -> String {
    let PortRecord {
        protocol,
        host_ip,
        host_port,
        container_port,
    } = record;
    let destination = if host_ip.is_unspecified() {
        "fib daddr type local".to_string()
    } else {
        format!("ip daddr {host_ip}")
    };
    let protocol = if *protocol == Protocol::Udp.number() {
        "udp"
    } else {
        "tcp"
    };
    let address = local.address;
    format!(
        "\t\tmeta nfproto ipv4 {destination} {protocol} dport {host_port} dnat ip to {address}:{container_port}\n"
    )
}

/// Arguments of `iptables` for the rules that let our packets pass Docker's FORWARD policy, without the command and
/// chain: out of containers always, into them only as answers and translated connections.
pub fn docker_user_rules() -> [Vec<String>; 2] {
    let any = format!("{}+", NAME_PREFIX);
    let comment = ["-m", "comment", "--comment", "skep", "-j", "ACCEPT"];
    let rule = |head: &[&str]| head.iter().chain(&comment).map(ToString::to_string).collect();
    [
        rule(&["-i", &any]),
        rule(&[
            "-o",
            &any,
            "-m",
            "conntrack",
            "--ctstate",
            "RELATED,ESTABLISHED,DNAT",
        ]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_become_rules_for_bridged_containers() {
        let port = |protocol, number| Port { protocol, number };
        let ports = BTreeSet::from([
            port(Protocol::Tcp, 8080),
            port(Protocol::Tcp, 80),
            port(Protocol::Udp, 53),
        ]);
        let inputs = FirewallInputs {
            ports: &ports,
            dedicated: Vec::new(),
            locals: Vec::new(),
            mesh_address: Ipv4Addr::new(169, 254, 1, 1),
            node_address: Ipv4Addr::new(192, 0, 2, 1),
        };
        let script = script(&inputs);
        assert_eq!(
            script
                .matches("tcp dport { 80, 8080 } dnat ip to 169.254.1.1")
                .count(),
            1
        );
        assert_eq!(
            script.matches("udp dport { 53 } dnat ip to 169.254.1.1").count(),
            1
        );
        assert!(script.contains("snat ip to 192.0.2.1"));
    }

    #[test]
    fn a_dedicated_address_has_its_own_ports_only() {
        let address = Ipv4Addr::new(192, 0, 2, 50);
        let stand_in = Ipv4Addr::new(169, 254, 2, 7);
        let inputs = FirewallInputs {
            ports: &BTreeSet::from([Port {
                protocol: Protocol::Tcp,
                number: 80,
            }]),
            dedicated: vec![Dedicated {
                address,
                stand_in,
                port: Port {
                    protocol: Protocol::Tcp,
                    number: 443,
                },
            }],
            locals: Vec::new(),
            mesh_address: Ipv4Addr::new(169, 254, 1, 1),
            node_address: Ipv4Addr::new(192, 0, 2, 1),
        };
        let script = script(&inputs);
        let at = |rule: &str| script.find(rule).unwrap_or_else(|| panic!("{rule} in {script}"));
        let own = at("ip daddr 192.0.2.50 tcp dport 443 dnat ip to 169.254.2.7");
        let nothing_else = at("ip daddr 192.0.2.50 accept");
        let everybodys = at("tcp dport { 80 } dnat ip to 169.254.1.1");
        assert!(own < nothing_else && nothing_else < everybodys, "{script}");
    }

    #[test]
    fn nothing_published_leaves_no_rule() {
        let inputs = FirewallInputs {
            ports: &BTreeSet::new(),
            dedicated: Vec::new(),
            locals: Vec::new(),
            mesh_address: Ipv4Addr::new(169, 254, 1, 1),
            node_address: Ipv4Addr::new(192, 0, 2, 1),
        };
        assert!(!script(&inputs).contains("dnat ip"));
    }
}
