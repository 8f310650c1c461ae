//! Ingress addresses and their routes on the node's interfaces, by rtnetlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder, new_connection};

use crate::ingress::core::carry::{Change, Standing};
use crate::network::io::links::{PROTOCOL, is_of_the_swarm, read_subnet};

/// An address nobody renews goes by itself.
const LIFE_S: u32 = 10;
/// Whatever else leads to the subnet goes first.
const METRIC: u32 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    #[error("open rtnetlink: {0}")]
    Open(#[source] io::Error),
    #[error("list {what}: {source}")]
    List {
        what: &'static str,
        source: rtnetlink::Error,
    },
    #[error("{operation} {object} on interface {interface}: {source}")]
    Change {
        operation: &'static str,
        object: String,
        interface: u32,
        source: rtnetlink::Error,
    },
}

/// A connection to the kernel.
#[derive(Debug, Clone)]
pub struct Interfaces(Handle);

impl Interfaces {
    /// Call it within a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self, InterfaceError> {
        let (connection, handle, _) = new_connection().map_err(InterfaceError::Open)?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// What of ours stands on the interfaces.
    ///
    /// # Errors
    /// When a list cannot be had.
    pub async fn standing(&self) -> Result<Standing, InterfaceError> {
        let addresses = self.0.address().get().execute().try_collect::<Vec<_>>();
        let addresses = addresses.await.map_err(list("addresses"))?;
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes = self.0.route().get(all).execute().try_collect::<Vec<_>>();
        let routes = routes.await.map_err(list("routes"))?;
        let ours = addresses.iter().filter(|message| is_of_the_swarm(message));
        Ok(Standing {
            addresses: ours
                .filter_map(|message| Some((message.header.index, read_subnet(message)?.addr())))
                .collect(),
            routes: routes.iter().filter_map(read_route).collect(),
        })
    }

    /// Makes one change. What is there, or gone, already is fine.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub async fn make(&self, change: Change) -> Result<(), InterfaceError> {
        let (operation, object, interface, result) = match change {
            Change::AddRoute(at, subnet) => (
                "add route to",
                subnet.to_string(),
                at,
                self.add_route(at, subnet).await,
            ),
            Change::Carry(at, address) => (
                "add address",
                address.to_string(),
                at,
                self.carry(at, address).await,
            ),
            Change::PutDown(at, address) => {
                let message = message(at, address);
                let result = self.0.address().del(message).execute().await;
                (
                    "remove address",
                    address.to_string(),
                    at,
                    gone(result, libc::EADDRNOTAVAIL),
                )
            }
            Change::RemoveRoute(at, subnet) => {
                let result = self.0.route().del(route(at, subnet)).execute().await;
                (
                    "remove route to",
                    subnet.to_string(),
                    at,
                    gone(result, libc::ESRCH),
                )
            }
        };
        // An interface that is gone has taken all of it along.
        gone(result, libc::ENODEV).map_err(|source| InterfaceError::Change {
            operation,
            object,
            interface,
            source,
        })
    }

    async fn carry(&self, at: u32, address: IpAddr) -> Result<(), rtnetlink::Error> {
        let mut request = self.0.address().add(at, address, length(address)).replace();
        *request.message_mut() = message(at, address);
        request.execute().await
    }

    async fn add_route(&self, at: u32, subnet: Ipv4Net) -> Result<(), rtnetlink::Error> {
        self.0.route().add(route(at, subnet)).replace().execute().await
    }
}

/// By itself, not with its subnet's length: then it is never the first of its subnet, which would take the node's own
/// addresses along when it goes (net/ipv4/devinet.c, __inet_del_ifa).
fn message(at: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => netlink_packet_route::AddressFamily::Inet,
        IpAddr::V6(_) => netlink_packet_route::AddressFamily::Inet6,
    };
    message.header.prefix_len = length(address);
    message.header.index = at;
    let mut life = CacheInfo::default();
    life.ifa_valid = LIFE_S;
    // Deprecated from the start: the node's own connections do not leave from it.
    life.ifa_preferred = 0;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Flags(AddressFlags::Noprefixroute),
        AddressAttribute::CacheInfo(life),
        AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)),
    ];
    message
}

const fn length(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn route(at: u32, subnet: Ipv4Net) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(subnet.network(), subnet.prefix_len())
        .output_interface(at)
        .scope(RouteScope::Link)
        .protocol(RouteProtocol::Other(PROTOCOL))
        .priority(METRIC)
        .build()
}

/// Those of ingress addresses, told by their metric: other routes of ours lead to containers.
fn read_route(message: &RouteMessage) -> Option<(u32, Ipv4Net)> {
    let length = message.header.destination_prefix_length;
    let is_ours = message.header.protocol == RouteProtocol::Other(PROTOCOL)
        && message.header.kind == RouteType::Unicast
        && message.attributes.contains(&RouteAttribute::Priority(METRIC));
    let (mut at, mut subnet) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => at = Some(*index),
            RouteAttribute::Destination(RouteAddress::Inet(address)) => subnet = Some(*address),
            _ => {}
        }
    }
    is_ours.then_some((at?, Ipv4Net::new(subnet?, length).ok()?))
}

fn gone(result: Result<(), rtnetlink::Error>, code: i32) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -code => Ok(()),
        result => result,
    }
}

fn list(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> InterfaceError {
    move |source| InterfaceError::List { what, source }
}
