//! A router between the client and the nodes, for addresses that lie behind all nodes at once (ECMP).
//!
//! The client has a second address in a network of its own behind the router. The router hashes each flow to
//! one of the nodes, as a router with BGP or with static routes would, and takes a node out when it is told to.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use crate::cluster::Cluster;
use crate::network::{self, ROUTER_ADDRESS};
use crate::node::Node;
use crate::space::Space;

/// An address that every node has on `lo`, and the router a route to by each node.
pub const ANYCAST_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// The client behind the router.
pub const FAR_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const FAR_ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const FAR_NETWORK: &str = "198.51.100.0/24";

/// It ends when this is dropped.
pub struct Router(Space);

impl Router {
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let testbox = &cluster.settings.testbox;
        let space = Space::start(testbox, "router", &[], cluster.settings.detached)?;
        cluster.settings.run.add_process(space.init())?;
        network::plug_in(&cluster.switch, &space, ROUTER_ADDRESS)?;
        let client = cluster.client.space();
        network::configure(
            client,
            &[format!(
                "link add eth1 type veth peer name eth1 netns {}",
                space.init().pid
            )],
        )?;
        network::configure(
            &space,
            &[
                format!("address add {FAR_ROUTER}/24 dev eth1"),
                "link set eth1 up".to_string(),
            ],
        )?;
        network::configure(
            client,
            &[
                format!("address add {FAR_CLIENT}/24 dev eth1"),
                "link set eth1 up".to_string(),
                format!("route add {ANYCAST_ADDRESS}/32 via {FAR_ROUTER} src {FAR_CLIENT}"),
            ],
        )?;
        // By addresses and ports, or all flows of a client went to one node; and no hints that a node is
        // reached directly.
        for setting in [
            "net.ipv4.ip_forward=1",
            "net.ipv4.fib_multipath_hash_policy=1",
            "net.ipv4.conf.all.send_redirects=0",
            "net.ipv4.conf.eth0.send_redirects=0",
        ] {
            let output = space.command("sysctl").args(["-qw", setting]).output()?;
            ensure!(output.status.success(), "sysctl {setting}");
        }
        Ok(Self(space))
    }

    /// Puts the address on the node, and the way back to the client. Again after its start.
    pub fn prepare(&self, node: &Node) -> Result<()> {
        let space = node.space()?;
        network::configure(
            &space,
            &[
                format!("address replace {ANYCAST_ADDRESS}/32 dev lo"),
                format!("route replace {FAR_NETWORK} via {ROUTER_ADDRESS}"),
            ],
        )
    }

    /// Spreads the address over exactly these nodes.
    pub fn spread(&self, nodes: &[&Node]) -> Result<()> {
        let hops: Vec<String> = nodes
            .iter()
            .map(|node| format!("nexthop via {}", node.address()))
            .collect();
        network::configure(
            &self.0,
            &[format!("route replace {ANYCAST_ADDRESS}/32 {}", hops.join(" "))],
        )
    }
}
