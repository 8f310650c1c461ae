//! Ingress addresses: addresses of the swarm that outlive the node that holds them. The managers commit who may hold one
//! and who decides; who holds it now the nodes agree on by leases, and nothing of that is stored.

use prost::Message;

use super::object::Meta;

/// What a user asks for.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct IngressAddressSpec {
    /// CIDR text, e.g. `192.168.50.100/24`.
    #[prost(string, tag = "1")]
    pub address: String,
    /// Interface that carries it on every owner; empty: each node looks for the fitting one.
    #[prost(string, tag = "2")]
    pub interface: String,
    /// Placement constraints that an owner meets.
    #[prost(string, repeated, tag = "3")]
    pub constraints: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct IngressAddress {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, required, tag = "2")]
    pub meta: Meta,
    #[prost(message, required, tag = "3")]
    pub spec: IngressAddressSpec,
    /// Committed, never reused: names the address in probes.
    #[prost(uint32, tag = "4")]
    pub index: u32,
    /// Rises with every change of owners or observers; 0 before the first.
    #[prost(uint64, tag = "5")]
    pub epoch: u64,
    /// Indexes of the nodes that may hold it, best first.
    #[prost(uint32, repeated, tag = "6")]
    pub owners: Vec<u32>,
    /// Indexes of the nodes whose majority grants the lease, in rising order.
    #[prost(uint32, repeated, tag = "7")]
    pub observers: Vec<u32>,
    /// Index of the node that a user moved it to: the planner does not move it for the sake of spread. 0 once that node is
    /// not the first owner any more.
    #[prost(uint32, tag = "8")]
    pub moved_to: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct CreateIngressAddress {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, required, tag = "2")]
    pub spec: IngressAddressSpec,
}

#[derive(Clone, PartialEq, Message)]
pub struct RemoveIngressAddress {
    #[prost(string, tag = "1")]
    pub id: String,
}

/// What the leader's planner decided. A rank whose premise is gone is skipped: the next round plans anew.
#[derive(Clone, PartialEq, Message)]
pub struct RankIngressAddresses {
    #[prost(message, repeated, tag = "1")]
    pub ranks: Vec<IngressRank>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct IngressRank {
    #[prost(string, tag = "1")]
    pub id: String,
    /// The epoch it was planned from.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    #[prost(uint32, repeated, tag = "3")]
    pub owners: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    pub observers: Vec<u32>,
}

/// Makes a node the first owner.
#[derive(Clone, PartialEq, Message)]
pub struct MoveIngressAddress {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub node_id: String,
}
