//! The immutable table that every answer is made from. Whole tables are handed over; nothing is edited.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Everything the DNS of one node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Who may ask, by the source address of the query. A container on two networks stands here twice,
    /// with equal values. IPv4 addresses are plain, never IPv4-mapped.
    pub clients: BTreeMap<IpAddr, Client>,
    /// The networks, by network id.
    pub networks: BTreeMap<String, Zone>,
}

/// One local endpoint that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Ids of its networks in search order: the user's overlays, ingress last.
    pub networks: Vec<String>,
    /// It has internal networks only: its questions never leave the node (CVE-2024-29018).
    pub internal_only: bool,
}

/// The names of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// The network's name, for the `name.network` form.
    pub name: String,
    /// Addresses by name: services, aliases, `tasks.NAME`, containers. Keys are in lower case without a
    /// trailing dot. A name with no address is known all the same: it answers "no data" and is not forwarded.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Name by address, without the network's name.
    pub reverse: BTreeMap<IpAddr, String>,
}
