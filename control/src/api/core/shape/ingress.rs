//! The JSON of ingress addresses, which the `skep` command reads and writes. Not Swarm's, so its names are as in Skep's other pages.

use serde::{Deserialize, Serialize};

use super::time;
use crate::core::ingress::Behind;
use crate::core::state::{ClusterState, node_name};
use crate::model::{IngressAddress, IngressAddressSpec, Service};

/// Body of a create. Members that nobody knows are refused: there are no older clients.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAddress {
    /// CIDR text.
    pub address: String,
    #[serde(default)]
    pub interface: String,
    #[serde(default)]
    pub constraints: Vec<String>,
}

impl From<NewAddress> for IngressAddressSpec {
    fn from(new: NewAddress) -> IngressAddressSpec {
        IngressAddressSpec {
            address: new.address,
            interface: new.interface,
            constraints: new.constraints,
        }
    }
}

/// Body of a move.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Id or name of a node.
    pub node: String,
}

/// What the managers committed of an address.
#[derive(Clone, Debug, Serialize)]
pub struct AddressShape {
    pub id: String,
    /// CIDR text.
    pub address: String,
    pub interface: String,
    pub constraints: Vec<String>,
    pub index: u32,
    pub epoch: u64,
    /// Names of nodes, best first.
    pub owners: Vec<String>,
    pub observers: Vec<String>,
    /// Name of the node that a user moved it to; empty where the managers are free.
    pub moved_to: String,
    /// Names of the services that ask for the address; it is then theirs alone.
    pub services: Vec<String>,
    pub created_at: String,
    pub updated_at: String,
}

/// All addresses, in the order in which they were made.
pub fn addresses(state: &ClusterState) -> Vec<AddressShape> {
    let behind = Behind::read(state);
    let mut records: Vec<&IngressAddress> = state.ingress_addresses.values().map(|a| &**a).collect();
    records.sort_by_key(|a| a.index);
    let names = |indexes: &[u32]| indexes.iter().map(|i| name_of(state, *i)).collect();
    let service = |service: &&Service| service.spec.annotations.name.clone();
    let shape = |a: &IngressAddress| AddressShape {
        id: a.id.clone(),
        address: a.spec.address.clone(),
        interface: a.spec.interface.clone(),
        constraints: a.spec.constraints.clone(),
        index: a.index,
        epoch: a.epoch,
        owners: names(&a.owners),
        observers: names(&a.observers),
        moved_to: if a.moved_to == 0 {
            String::new()
        } else {
            name_of(state, a.moved_to)
        },
        services: behind.named(a).iter().map(service).collect(),
        created_at: time(a.meta.created_at),
        updated_at: time(a.meta.updated_at),
    };
    records.into_iter().map(shape).collect()
}

fn name_of(state: &ClusterState, index: u32) -> String {
    let node = state.nodes.values().find(|n| n.index == index);
    node.map_or_else(|| format!("#{index}"), |n| node_name(n).to_string())
}
