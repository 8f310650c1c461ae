//! Nodes, containers and clients as network namespaces on one switch.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use skep_ebpf_loader::*;

pub const MESH: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 53);
/// Number of the next laboratory of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Runs a command that has to succeed.
pub fn command(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a program"))
        .args(words)
        .output()
        .expect("start");
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A network namespace, removed with its value.
pub struct Space {
    pub name: String,
}

impl Space {
    fn new(name: String) -> Self {
        let space = Self { name };
        command(&format!("ip netns add {}", space.name));
        // No neighbour discovery of the kernel's own: counters count the test's packets only.
        space.run(|| {
            for scope in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
                if std::fs::exists(&path).is_ok_and(|exists| exists) {
                    std::fs::write(path, "1").expect("switch IPv6 off");
                }
            }
        });
        space.ip("link set lo up");
        space
    }

    pub fn ip(&self, arguments: &str) {
        command(&format!("ip -n {} {arguments}", self.name));
    }

    /// Runs something on a thread inside the namespace.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        std::thread::scope(|scope| {
            let worker = scope.spawn(move || {
                let file = std::fs::File::open(&path).expect("open namespace");
                setns(file, CloneFlags::CLONE_NEWNET).expect("enter namespace (are you root?)");
                action()
            });
            match worker.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The calling thread moves into a namespace for good.
    pub fn enter(name: &str) {
        let file = std::fs::File::open(format!("/run/netns/{name}")).expect("open namespace");
        setns(file, CloneFlags::CLONE_NEWNET).expect("enter namespace");
    }

    pub fn ifindex(&self, interface: &str) -> u32 {
        let name = std::ffi::CString::new(interface).expect("a name");
        // SAFETY: a valid C string.
        let index = self.run(|| unsafe { libc::if_nametoindex(name.as_ptr()) });
        assert_ne!(index, 0, "{interface} in {}", self.name);
        index
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // Best effort: the test's own outcome must not be hidden by a clean-up that fails.
        let status = Command::new("ip").args(["netns", "del", &self.name]).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("namespace {} is left behind", self.name);
        }
    }
}

/// A node with its data plane.
pub struct Node {
    pub space: Space,
    pub index: u32,
    pub address: Ipv4Addr,
    pub config: DatapathConfig,
    pub datapath: Option<Datapath>,
    pub uplink: u32,
    pub hook: Hook,
    pub build: Build,
}

impl Node {
    /// Opens the data plane, or opens it again as a new agent would.
    pub fn open(&mut self) {
        let opened = self
            .space
            .run(|| Datapath::open_build(self.config.clone(), self.hook, self.build));
        self.datapath = Some(opened.unwrap_or_else(|error| panic!("{error}")));
    }

    /// Does something with the data plane, in the node's namespace.
    pub fn with<T: Send>(&mut self, action: impl FnOnce(&mut Datapath) -> T + Send) -> T {
        let datapath = self.datapath.as_mut().expect("open");
        self.space.run(|| action(datapath))
    }

    /// What a node's probes write.
    pub fn liveness(&mut self) -> Liveness {
        self.with(|d| d.liveness()).expect("pinned maps")
    }

    pub fn drops(&mut self, reason: DropReason) -> u64 {
        let drops = self.with(|d| d.drops()).expect("drops");
        drops
            .into_iter()
            .find(|(r, _)| *r == reason)
            .map_or(0, |(_, count)| count)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(datapath) = self.datapath.take()
            && let Err(error) = self.space.run(|| datapath.close(true))
        {
            eprintln!("{error}");
        }
        if nix::mount::umount(&self.config.pin_dir).is_err()
            || std::fs::remove_dir(&self.config.pin_dir).is_err()
        {
            eprintln!("{} is left behind", self.config.pin_dir.display());
        }
    }
}

/// A container with one interface per address.
pub struct Container {
    pub space: Space,
    pub endpoints: Vec<EndpointEntry>,
}

/// The whole set-up.
pub struct Lab {
    prefix: String,
    pub nodes: Vec<Node>,
    pub client: Space,
    pub containers: Vec<Container>,
    pub tables: Tables,
    /// An address that each node has on `lo`.
    pub anycast: Option<Ipv4Addr>,
    wire: Space,
    hook: Hook,
    max_flows: u32,
    next_container: u32,
}

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

impl Lab {
    /// `count` nodes 192.0.2.1 and up, and a client beside them.
    pub fn new(count: u32) -> Self {
        Self::at(count, hook_of_kernel())
    }

    /// The same with programs attached in this way.
    pub fn at(count: u32, hook: Hook) -> Self {
        Self::build(count, hook, 8192)
    }

    /// One node with a table for this many established flows.
    pub fn with_flows(max_flows: u32) -> Self {
        Self::build(1, hook_of_kernel(), max_flows)
    }

    fn build(count: u32, hook: Hook, max_flows: u32) -> Self {
        let prefix = format!(
            "skep-ebpf-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let wire = Space::new(format!("{prefix}-w"));
        wire.ip("link add br0 type bridge");
        wire.ip("link set br0 up");
        let client = Space::new(format!("{prefix}-c"));
        let mut lab = Self {
            prefix,
            nodes: Vec::new(),
            client,
            containers: Vec::new(),
            tables: Tables::default(),
            anycast: None,
            wire,
            hook,
            max_flows,
            next_container: 1,
        };
        plug(&lab.wire, &lab.client, "pc", CLIENT);
        for index in 1..=count {
            let node = lab.node(index);
            lab.nodes.push(node);
        }
        lab.tables.nodes = (1..=count)
            .map(|index| NodeEntry {
                index,
                underlay: IpAddr::V4(node_address(index)),
            })
            .collect();
        lab
    }

    fn node(&self, index: u32) -> Node {
        let space = Space::new(format!("{}-n{index}", self.prefix));
        let address = node_address(index);
        plug(&self.wire, &space, &format!("p{index}"), address);
        space.ip(&format!("link set eth0 address {}", mac(uplink_mac(index))));
        space.ip("link add skep-vxlan type vxlan external nolearning dstport 4789");
        space.ip("link set skep-vxlan mtu 1450 up");
        space.ip("link add skep0 type veth peer name skep1");
        space.ip("link set skep0 up");
        space.ip("link set skep1 up");
        let stand_ins = format!("{}/{STAND_INS_PREFIX}", Ipv4Addr::from(STAND_INS));
        for destination in [format!("{MESH}/32"), stand_ins] {
            space.ip(&format!("route add {destination} dev skep0 src {address}"));
        }
        let config = DatapathConfig {
            pin_dir: PathBuf::from(format!("/run/{}-n{index}", self.prefix)),
            vxlan_ifindex: space.ifindex("skep-vxlan"),
            host_ifindex: space.ifindex("skep1"),
            host_peer_ifindex: space.ifindex("skep0"),
            node_index: index,
            mesh_vni: 1,
            mesh_vni_forwarded: 2,
            resolver: RESOLVER,
            mesh_address: MESH,
            max_flows: self.max_flows,
        };
        let uplink = space.ifindex("eth0");
        // The node first: it cleans up when opening fails.
        let mut node = Node {
            space,
            index,
            address,
            config,
            datapath: None,
            uplink,
            hook: self.hook,
            build: Build::THIS,
        };
        node.open();
        node
    }

    /// A container on a node (counted from 0) with an interface per (VNI, address); the first one has the default route.
    pub fn container(&mut self, node: usize, addresses: &[(u32, Ipv4Addr)]) -> usize {
        let number = self.next_container;
        self.next_container += 1;
        let space = Space::new(format!("{}-t{number}", self.prefix));
        let host = &self.nodes[node].space;
        let mut endpoints = Vec::new();
        for (at, (vni, address)) in addresses.iter().enumerate() {
            let veth = format!("v{number}x{at}");
            let inside = format!("eth{at}");
            let o = address.octets();
            host.ip(&format!(
                "link add {veth} type veth peer name {inside} netns {}",
                space.name
            ));
            host.ip(&format!("link set {veth} address {} up", mac(GATEWAY_MAC)));
            let own = mac([0x02, 0x42, o[0], o[1], o[2], o[3]]);
            space.ip(&format!("link set {inside} address {own} mtu 1450 up"));
            space.ip(&format!("address add {address}/24 dev {inside}"));
            if at == 0 {
                space.ip(&format!("route add default via {}", gateway(*address)));
            }
            endpoints.push(EndpointEntry {
                vni: *vni,
                address: IpAddr::V4(*address),
                node: self.nodes[node].index,
                local: Some(LocalEndpoint {
                    ifindex: host.ifindex(&veth),
                    container: number,
                }),
            });
        }
        self.containers.push(Container { space, endpoints });
        self.containers.len() - 1
    }

    pub fn network(&mut self, vni: u32, subnet: &str, ingress: bool) {
        let subnet: ipnet::Ipv4Net = subnet.parse().expect("a subnet");
        let gateway = subnet.hosts().next().expect("an address");
        self.tables.networks.push(NetworkEntry {
            vni,
            subnet: subnet.into(),
            gateway: IpAddr::V4(gateway),
            mtu: 1450,
            internal: false,
            ingress,
        });
    }

    /// The tables as a node sees them: endpoints of others have no interface here.
    pub fn tables_of(&self, node: usize) -> Tables {
        let node = &self.nodes[node];
        let mut tables = self.tables.clone();
        tables.uplinks = vec![UplinkEntry {
            ifindex: node.uplink,
            addresses: [node.address]
                .into_iter()
                .chain(self.anycast)
                .map(IpAddr::V4)
                .collect(),
        }];
        for entry in &mut tables.ingress {
            entry.ifindex = node.uplink;
        }
        tables.endpoints = self.containers.iter().flat_map(|c| c.endpoints.clone()).collect();
        for endpoint in &mut tables.endpoints {
            endpoint.local = endpoint.local.filter(|_| endpoint.node == node.index);
        }
        tables
    }

    /// An address of the swarm that every node could hold.
    pub fn ingress(&mut self, address: Ipv4Addr, dedicated: bool) {
        self.tables.ingress.push(IngressEntry {
            address: IpAddr::V4(address),
            ifindex: 0,
            dedicated,
        });
    }

    /// All nodes are told that this one (counted from 0) holds an address for so long.
    pub fn hold(&mut self, address: Ipv4Addr, node: usize, lease: Duration) {
        let until = Datapath::monotonic_ns().expect("a clock") + lease.as_nanos() as u64;
        let holder = self.nodes[node].index;
        for (at, other) in self.nodes.iter_mut().enumerate() {
            let own = (at == node).then_some(until);
            other
                .liveness()
                .hold(IpAddr::V4(address), Some(holder), own)
                .expect("hold");
        }
    }

    /// What an announcement does: the client sends packets for the address to this node from now on.
    pub fn announce(&self, address: Ipv4Addr, node: usize) {
        let mac = mac(uplink_mac(self.nodes[node].index));
        self.client
            .ip(&format!("neigh replace {address} lladdr {mac} dev eth0"));
    }

    /// A node dies: no packet leaves it or reaches it.
    pub fn kill(&self, node: usize) {
        self.wire
            .ip(&format!("link set p{} down", self.nodes[node].index));
    }

    /// Tells one node (counted from 0).
    pub fn sync_one(&mut self, node: usize) {
        let tables = self.tables_of(node);
        self.nodes[node].with(|d| d.sync(&tables)).expect("sync");
    }

    /// Tells every node.
    pub fn sync(&mut self) -> Vec<SyncReport> {
        (0..self.nodes.len())
            .map(|at| {
                let tables = self.tables_of(at);
                let report = self.nodes[at].with(|d| d.sync(&tables)).expect("sync");
                assert!(report.failed.is_empty(), "{:?}", report.failed);
                report
            })
            .collect()
    }
}

fn plug(wire: &Space, space: &Space, port: &str, address: Ipv4Addr) {
    wire.ip(&format!(
        "link add {port} type veth peer name eth0 netns {}",
        space.name
    ));
    wire.ip(&format!("link set {port} master br0 up"));
    space.ip(&format!("address add {address}/24 dev eth0"));
    space.ip("link set eth0 up");
}

pub fn node_address(index: u32) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, index as u8)
}

/// MAC address of a node's uplink.
pub fn uplink_mac(index: u32) -> [u8; 6] {
    [2, 0xaa, 0, 0, 0, index as u8]
}

pub fn gateway(address: Ipv4Addr) -> Ipv4Addr {
    let o = address.octets();
    Ipv4Addr::new(o[0], o[1], o[2], 1)
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}
