//! Interfaces, addresses, routes and neighbours, by rtnetlink.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan, MulticastGroup, RouteMessageBuilder,
    new_connection, new_multicast_connection,
};
use skep_ebpf_loader::{GATEWAY_MAC, STAND_INS, STAND_INS_PREFIX};
use tokio::sync::{Mutex, watch};
use tokio::time::sleep;

use crate::network::core::ledger::mac;
use crate::network::core::links::{
    ENDPOINT_GROUP, HOST_NAME, HOST_PEER_NAME, Link, Snapshot, VXLAN_NAME, Vxlan,
};
use crate::network::io::sysctl::{self, SysctlError};

/// Marks our routes (`RTPROT` numbers above 4 are free for administrators), and addresses of the swarm that this node
/// holds for the moment (`IFA_PROTO`).
pub const PROTOCOL: u8 = 0x53;
/// Before the stream of changes is opened again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// Network id of the VXLAN device: with `external` each packet names its own.
const NO_VNI: u32 = 0;

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("open rtnetlink: {0}")]
    Open(#[source] io::Error),
    #[error("list {what}: {source}")]
    List {
        what: &'static str,
        source: rtnetlink::Error,
    },
    #[error("{operation} {object}: {source}")]
    Change {
        operation: &'static str,
        object: String,
        source: rtnetlink::Error,
    },
    #[error("interface {0} is gone right after it was made")]
    Vanished(String),
    #[error(
        "VXLAN device {name} holds UDP port {port}: remove it, or give the swarm another --data-path-port"
    )]
    PortTaken { name: String, port: u16 },
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// A connection to the kernel; cheap to clone.
#[derive(Debug, Clone)]
pub struct Links {
    handle: Handle,
    /// A netlink socket carries one list at a time; a second one gets EBUSY (net/netlink/af_netlink.c,
    /// __netlink_dump_start).
    listing: Arc<Mutex<()>>,
}

/// Indexes of the interfaces that the data plane sits on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLinks {
    pub vxlan: u32,
    pub host: u32,
    pub host_peer: u32,
}

impl Links {
    /// Call it within a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self, LinkError> {
        let (connection, handle, _) = new_connection().map_err(LinkError::Open)?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            listing: Arc::default(),
        })
    }

    /// Counts changes of links, IPv4 addresses and routes, until the receiver is dropped.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn watch() -> Result<watch::Receiver<u64>, LinkError> {
        let (changes, receiver) = watch::channel(0);
        let mut messages = subscribe()?;
        tokio::spawn(async move {
            while !changes.is_closed() {
                match messages.next().await {
                    Some(_) => changes.send_modify(|count| *count += 1),
                    // The kernel ends the stream when too much happens at once.
                    None => {
                        sleep(REOPEN_PAUSE).await;
                        match subscribe() {
                            Ok(again) => messages = again,
                            Err(error) => tracing::warn!(%error, "changes of interfaces go unseen"),
                        }
                        changes.send_modify(|count| *count += 1);
                    }
                }
            }
        });
        Ok(receiver)
    }

    /// All interfaces with their addresses, and where default routes lead.
    ///
    /// # Errors
    /// When a list cannot be had.
    pub async fn snapshot(&self) -> Result<Snapshot, LinkError> {
        let mut subnets = self.subnets().await?;
        let messages = self.interfaces().await?;
        let links = messages.iter().map(|message| {
            let mut link = read_link(message);
            link.subnets = subnets.remove(&link.index).unwrap_or_default();
            link.addresses = link.subnets.iter().map(IpNet::addr).collect();
            link
        });
        let mut snapshot = Snapshot {
            links: links.collect(),
            ..Snapshot::default()
        };
        for (interface, router) in self.default_routes().await? {
            snapshot.default_routes.insert(interface);
            if let Some(router) = router {
                snapshot.routers.entry(interface).or_insert(router);
            }
        }
        Ok(snapshot)
    }

    async fn interfaces(&self) -> Result<Vec<LinkMessage>, LinkError> {
        let _listing = self.listing.lock().await;
        let messages = self.handle.link().get().execute().try_collect().await;
        messages.map_err(|source| LinkError::List {
            what: "interfaces",
            source,
        })
    }

    async fn subnets(&self) -> Result<BTreeMap<u32, Vec<IpNet>>, LinkError> {
        let listing = self.listing.lock().await;
        let messages = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect::<Vec<_>>()
            .await;
        drop(listing);
        let messages = messages.map_err(|source| LinkError::List {
            what: "addresses",
            source,
        })?;
        let mut subnets: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
        for message in messages.iter().filter(|message| !is_of_the_swarm(message)) {
            if let Some(subnet) = read_subnet(message) {
                subnets.entry(message.header.index).or_default().push(subnet);
            }
        }
        Ok(subnets)
    }

    /// Interface and router of each default route.
    async fn default_routes(&self) -> Result<Vec<(u32, Option<Ipv4Addr>)>, LinkError> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let _listing = self.listing.lock().await;
        let messages = self
            .handle
            .route()
            .get(all)
            .execute()
            .try_collect::<Vec<RouteMessage>>()
            .await;
        let messages = messages.map_err(|source| LinkError::List {
            what: "routes",
            source,
        })?;
        let defaults = messages.iter().filter(|route| {
            route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast
        });
        Ok(defaults.flat_map(read_hops).collect())
    }

    /// Makes the node's own interfaces exist: the VXLAN device, the veth pair, the addresses and routes on it.
    ///
    /// # Errors
    /// Another VXLAN device on the port, or what the kernel refuses. What was made stays.
    pub async fn ensure_node_links(
        &self,
        port: u16,
        mtu: u32,
        mesh: Ipv4Addr,
        node: Ipv4Addr,
        resolver: Ipv4Addr,
    ) -> Result<NodeLinks, LinkError> {
        let snapshot = self.snapshot().await?;
        self.ensure_vxlan(&snapshot, port).await?;
        if snapshot.by_name(HOST_NAME).is_none() || snapshot.by_name(HOST_PEER_NAME).is_none() {
            self.remove(HOST_NAME).await?;
            self.add(
                "make",
                HOST_NAME,
                LinkVeth::new(HOST_NAME, HOST_PEER_NAME).build(),
            )
            .await?;
        }
        for name in [VXLAN_NAME, HOST_NAME, HOST_PEER_NAME] {
            sysctl::container_facing(name)?;
        }
        sysctl::route_localnet(HOST_NAME)?;
        let snapshot = self.snapshot().await?;
        let (vxlan, host) = (find(&snapshot, VXLAN_NAME)?, find(&snapshot, HOST_NAME)?);
        let host_peer = find(&snapshot, HOST_PEER_NAME)?;
        for link in [vxlan, host, host_peer] {
            if link.mtu != mtu || !link.up {
                let change = LinkUnspec::new_with_index(link.index).mtu(mtu).up().build();
                self.set("set up", &link.name, change).await?;
            }
        }
        if !host.addresses.contains(&IpAddr::V4(resolver)) {
            let request = self
                .handle
                .address()
                .add(host.index, IpAddr::V4(resolver), 32)
                .replace();
            request
                .execute()
                .await
                .map_err(change("add address", &resolver))?;
        }
        // What the node's own processes send there carries its address, without translation.
        let stand_ins = Ipv4Addr::from(STAND_INS);
        for (destination, prefix) in [(mesh, 32), (stand_ins, STAND_INS_PREFIX)] {
            self.route_to(destination, prefix, host.index, Some(node)).await?;
        }
        self.neighbour(mesh, host.index, &host_peer.mac).await?;
        Ok(NodeLinks {
            vxlan: vxlan.index,
            host: host.index,
            host_peer: host_peer.index,
        })
    }

    async fn ensure_vxlan(&self, snapshot: &Snapshot, port: u16) -> Result<(), LinkError> {
        // The kernel allows several devices on one port if their ids differ, and a flow-based one beside others takes
        // or loses packets depending on the order.
        let rival = snapshot
            .links
            .iter()
            .find(|link| link.name != VXLAN_NAME && link.vxlan.is_some_and(|vxlan| vxlan.port == port));
        if let Some(rival) = rival {
            return Err(LinkError::PortTaken {
                name: rival.name.clone(),
                port,
            });
        }
        if let Some(ours) = snapshot.by_name(VXLAN_NAME) {
            if ours.vxlan == Some(Vxlan { port, external: true }) {
                return Ok(());
            }
            self.remove(VXLAN_NAME).await?;
        }
        let device = LinkVxlan::new(VXLAN_NAME, NO_VNI)
            .port(port)
            .learning(false)
            .collect_metadata(true);
        self.add("make", VXLAN_NAME, device.build()).await
    }

    /// Makes the veth of an endpoint: the host side with the gateway's MAC, up, routed and grouped; the container side
    /// down, for Docker to move.
    ///
    /// # Errors
    /// What the kernel refuses; a half-made pair is removed by the next try or by [`Links::remove`].
    pub async fn plug(
        &self,
        host_name: &str,
        container_name: &str,
        address: Ipv4Addr,
        mtu: u32,
    ) -> Result<u32, LinkError> {
        self.remove(host_name).await?;
        self.remove(container_name).await?;
        let peer = LinkUnspec::new_with_name(container_name)
            .mtu(mtu)
            .address(mac(address).to_vec());
        let pair = LinkMessageBuilder::<LinkVeth>::new(host_name, container_name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
            .mtu(mtu)
            .address(GATEWAY_MAC.to_vec());
        self.add("make", host_name, pair.build()).await?;
        sysctl::container_facing(host_name)?;
        let snapshot = self.named(host_name).await?;
        let index = snapshot
            .ok_or_else(|| LinkError::Vanished(host_name.to_string()))?
            .index;
        let change_up = LinkUnspec::new_with_index(index)
            .link_group(ENDPOINT_GROUP)
            .up()
            .build();
        self.set("set up", host_name, change_up).await?;
        self.route_to(address, 32, index, None).await?;
        self.neighbour(address, index, &mac(address)).await?;
        Ok(index)
    }

    /// Removes what [`Links::ensure_node_links`] made.
    ///
    /// # Errors
    /// The first interface that could not be removed; the other is.
    pub async fn remove_node_links(&self) -> Result<(), LinkError> {
        let vxlan = self.remove(VXLAN_NAME).await;
        self.remove(HOST_NAME).await?;
        vxlan
    }

    async fn named(&self, name: &str) -> Result<Option<Link>, LinkError> {
        // A dump rather than a question by name: "no such device" is then no error to tell from others.
        let messages = self.interfaces().await?;
        Ok(messages.iter().map(read_link).find(|link| link.name == name))
    }

    /// Removes an interface if it exists.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove(&self, name: &str) -> Result<(), LinkError> {
        let Some(link) = self.named(name).await? else {
            return Ok(());
        };
        match self.handle.link().del(link.index).execute().await {
            // It went between the two questions.
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::ENODEV => Ok(()),
            result => result.map_err(change("remove", &name)),
        }
    }

    async fn add(&self, operation: &'static str, name: &str, message: LinkMessage) -> Result<(), LinkError> {
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(change(operation, &name))
    }

    async fn set(&self, operation: &'static str, name: &str, message: LinkMessage) -> Result<(), LinkError> {
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(change(operation, &name))
    }

    async fn route_to(
        &self,
        address: Ipv4Addr,
        prefix: u8,
        interface: u32,
        source: Option<Ipv4Addr>,
    ) -> Result<(), LinkError> {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, prefix)
            .output_interface(interface)
            .scope(RouteScope::Link)
            .protocol(RouteProtocol::Other(PROTOCOL));
        if let Some(source) = source {
            route = route.pref_source(source);
        }
        let route = route.build();
        self.handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .map_err(change("add route to", &address))
    }

    async fn neighbour(&self, address: Ipv4Addr, interface: u32, mac: &[u8]) -> Result<(), LinkError> {
        let request = self.handle.neighbours().add(interface, IpAddr::V4(address));
        let request = request.link_layer_address(mac).replace();
        request.execute().await.map_err(change("add neighbour", &address))
    }
}

fn subscribe() -> Result<impl Stream<Item = impl Send> + Send + Unpin + 'static, LinkError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv4Route,
    ];
    let (connection, _handle, messages) = new_multicast_connection(&groups).map_err(LinkError::Open)?;
    tokio::spawn(connection);
    Ok(messages)
}

fn change<T: ToString + ?Sized>(
    operation: &'static str,
    object: &T,
) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    let object = object.to_string();
    move |source| LinkError::Change {
        operation,
        object,
        source,
    }
}

fn find<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Link, LinkError> {
    snapshot
        .by_name(name)
        .ok_or_else(|| LinkError::Vanished(name.to_string()))
}

/// For point-to-point links ADDRESS is the peer's; LOCAL is always ours, but IPv6 may leave it out.
pub fn read_subnet(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let plain = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    IpNet::new(local.or(plain)?, message.header.prefix_len).ok()
}

/// Whether we put it there, because this node holds it for the moment.
pub fn is_of_the_swarm(message: &AddressMessage) -> bool {
    let ours = AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL));
    message.attributes.contains(&ours)
}

fn read_hops(route: &RouteMessage) -> Vec<(u32, Option<Ipv4Addr>)> {
    let (mut interface, mut router, mut hops) = (None, None, Vec::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => router = Some(*address),
            RouteAttribute::MultiPath(next) => hops.extend(next.iter().map(|hop| {
                let router = hop.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(*address),
                    _ => None,
                });
                (hop.interface_index, router)
            })),
            _ => {}
        }
    }
    hops.extend(interface.map(|interface| (interface, router)));
    hops
}

fn read_link(message: &LinkMessage) -> Link {
    let up = message.header.flags.contains(LinkFlags::Up);
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up,
        running: up && message.header.flags.contains(LinkFlags::LowerUp),
        mac: Vec::new(),
        vxlan: None,
        addresses: Vec::new(),
        subnets: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::LinkInfo(infos) => link.vxlan = read_vxlan(infos),
            _ => {}
        }
    }
    link
}

fn read_vxlan(infos: &[LinkInfo]) -> Option<Vxlan> {
    infos.contains(&LinkInfo::Kind(InfoKind::Vxlan)).then_some(())?;
    let mut vxlan = Vxlan {
        port: 0,
        external: false,
    };
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    })?;
    for attribute in data {
        match attribute {
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::CollectMetadata(external) => vxlan.external = *external,
            _ => {}
        }
    }
    Some(vxlan)
}
