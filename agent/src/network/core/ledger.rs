//! What the driver remembers, and which of Docker's wishes it grants.
//!
//! Docker tells a network's options once and never again, not after a restart of either side, so they are kept. An
//! endpoint is kept while it exists: its veth outlives the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use skep_control::model::{Item, ItemKind, Items, NetworkAttachment};

use crate::network::core::links::NAME_PREFIX;
use crate::network::core::wire;

/// Driver option of a twin network: the overlay's id in the swarm.
pub const NETWORK_OPTION: &str = "com.docker.skep.network";
/// Driver option of a twin network: its VNI.
pub const VNI_OPTION: &str = "com.docker.skep.vni";

/// Why the driver does not do what Docker asks. The user reads it as the error of `docker run` or of a task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "networks of driver skep are made by Skep: use `docker network create --driver overlay` on Skep's socket"
    )]
    NotATwin,
    #[error("network {network} has {what} {value:?}, which is not valid")]
    BadOption {
        network: String,
        what: &'static str,
        value: String,
    },
    #[error("network {0} is unknown to skep: remove it and let Skep make it again")]
    UnknownNetwork(String),
    #[error("endpoint {0} is unknown to skep")]
    UnknownEndpoint(String),
    #[error(
        "address {address} on network {network} is not assigned to this node: create the container through Skep's socket"
    )]
    NotAssigned { address: String, network: String },
    #[error("address {address} on network {network} is in use by another container of this node")]
    InUse { address: Ipv4Addr, network: String },
}

/// Everything the driver must not forget.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverLedger {
    /// By Engine network id.
    pub twins: BTreeMap<String, TwinRecord>,
    /// By Engine endpoint id.
    pub endpoints: BTreeMap<String, EndpointRecord>,
    /// Number given to a container last.
    pub last_container: u32,
}

/// A local twin of an overlay network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinRecord {
    /// Id in the swarm.
    pub network_id: String,
    pub vni: u32,
    /// CIDR text.
    pub subnet: String,
    pub gateway: Ipv4Addr,
    pub internal: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Engine network id.
    pub twin: String,
    pub address: Ipv4Addr,
    /// Set between Join and Leave.
    pub joined: Option<JoinRecord>,
    /// `docker run -p` of a container on an overlay.
    #[serde(default)]
    pub ports: Vec<PortRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRecord {
    pub sandbox_key: String,
    /// Shared by all endpoints of the container.
    pub container: u32,
    /// Name of the veth's host side,
    pub host_name: String,
    /// and its index once it exists.
    pub ifindex: Option<u32>,
    /// This endpoint brought the container's route to the resolver.
    pub resolver_route: bool,
}

/// A port of this node that leads to one container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRecord {
    /// IANA protocol number.
    pub protocol: u8,
    pub host_ip: Ipv4Addr,
    pub host_port: u16,
    pub container_port: u16,
}

/// A plugged-in endpoint, as the data plane and DNS want it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Id in the swarm.
    pub network_id: String,
    pub vni: u32,
    pub address: Ipv4Addr,
    pub ifindex: u32,
    pub container: u32,
    pub internal: bool,
    pub ports: Vec<PortRecord>,
}

/// What to do in the kernel for a Join, and what to answer then.
#[derive(Debug, PartialEq, Eq)]
pub struct JoinPlan {
    pub host_name: String,
    /// The side that Docker moves into the container.
    pub container_name: String,
    pub address: Ipv4Addr,
    pub answer: wire::Joined,
}

impl DriverLedger {
    /// Notes a network that Docker has made.
    ///
    /// # Errors
    /// When it is no twin of an overlay.
    pub fn create_network(&mut self, request: &wire::CreateNetwork) -> Result<(), Refusal> {
        let options = request.generic();
        let (Some(network_id), Some(vni)) = (options.get(NETWORK_OPTION), options.get(VNI_OPTION)) else {
            return Err(Refusal::NotATwin);
        };
        let bad = |what, value: &str| Refusal::BadOption {
            network: network_id.clone(),
            what,
            value: value.to_string(),
        };
        let pool = request.ipv4_data.iter().flatten().next();
        let (pool, gateway) = pool.map_or(("", ""), |data| (data.pool.as_str(), data.gateway.as_str()));
        let gateway_text = gateway.split('/').next().unwrap_or_default();
        let record = TwinRecord {
            network_id: network_id.clone(),
            vni: vni.parse().map_err(|_| bad("VNI", vni))?,
            subnet: pool
                .parse::<Ipv4Net>()
                .map_err(|_| bad("subnet", pool))?
                .to_string(),
            gateway: gateway_text.parse().map_err(|_| bad("gateway", gateway))?,
            internal: request.internal(),
        };
        self.twins.insert(request.network_id.clone(), record);
        Ok(())
    }

    /// Forgets a network and its endpoints.
    pub fn delete_network(&mut self, network_id: &str) {
        self.twins.remove(network_id);
        self.endpoints.retain(|_, endpoint| endpoint.twin != network_id);
    }

    /// Grants an endpoint with an address that the swarm has assigned to this node.
    ///
    /// # Errors
    /// Unknown network, address not ours, or taken by an endpoint that is plugged in.
    pub fn create_endpoint(
        &mut self,
        items: &Items,
        request: &wire::CreateEndpoint,
    ) -> Result<wire::CreatedEndpoint, Refusal> {
        let twin = self.twin(&request.network_id)?;
        let asked = request.interface.clone().unwrap_or_default();
        let address = asked
            .address
            .split('/')
            .next()
            .and_then(|text| text.parse::<Ipv4Addr>().ok());
        let assigned = assigned_addresses(items, &twin.network_id);
        let Some(address) = address.filter(|address| assigned.contains(address)) else {
            return Err(Refusal::NotAssigned {
                address: asked.address,
                network: twin.network_id.clone(),
            });
        };
        let taken = self.endpoints.iter().any(|(id, other)| {
            *id != request.endpoint_id
                && other.twin == request.network_id
                && other.address == address
                && other.joined.is_some()
        });
        if taken {
            let network = twin.network_id.clone();
            return Err(Refusal::InUse { address, network });
        }
        // Left behind by a container that Docker never took its leave of.
        self.endpoints
            .retain(|_, other| other.twin != request.network_id || other.address != address);
        let record = EndpointRecord {
            twin: request.network_id.clone(),
            address,
            joined: None,
            ports: Vec::new(),
        };
        self.endpoints.insert(request.endpoint_id.clone(), record);
        let mac_address = if asked.mac_address.is_empty() {
            mac_text(address)
        } else {
            String::new()
        };
        Ok(wire::CreatedEndpoint {
            interface: wire::Interface {
                mac_address,
                ..Default::default()
            },
        })
    }

    /// Forgets an endpoint; answers the veth that may still be there.
    pub fn delete_endpoint(&mut self, endpoint_id: &str) -> Option<String> {
        let record = self.endpoints.remove(endpoint_id)?;
        record.joined.map(|joined| joined.host_name)
    }

    /// Settles names and numbers of a Join. The caller makes the veth and then calls [`Self::plugged`].
    ///
    /// # Errors
    /// Unknown network or endpoint.
    pub fn join(&mut self, request: &wire::Join, resolver: Ipv4Addr) -> Result<JoinPlan, Refusal> {
        let twin = self.twin(&request.network_id)?.clone();
        let endpoint_id = &request.endpoint_id;
        if !self.endpoints.contains_key(endpoint_id) {
            return Err(Refusal::UnknownEndpoint(endpoint_id.clone()));
        }
        let siblings: Vec<&JoinRecord> = self
            .endpoints
            .iter()
            .filter(|(id, _)| *id != endpoint_id)
            .filter_map(|(_, endpoint)| endpoint.joined.as_ref())
            .filter(|joined| joined.sandbox_key == request.sandbox_key)
            .collect();
        // Two equal routes in one container are an error to Docker.
        let resolver_route = !siblings.iter().any(|joined| joined.resolver_route);
        let container = siblings.first().map(|joined| joined.container);
        let container = container.unwrap_or_else(|| self.next_container());
        let short: String = endpoint_id.chars().take(10).collect();
        let host_name = format!("{NAME_PREFIX}{short}");
        let Some(record) = self.endpoints.get_mut(endpoint_id) else {
            return Err(Refusal::UnknownEndpoint(endpoint_id.clone()));
        };
        record.joined = Some(JoinRecord {
            sandbox_key: request.sandbox_key.clone(),
            container,
            host_name: host_name.clone(),
            ifindex: None,
            resolver_route,
        });
        let container_name = format!("{NAME_PREFIX}c{short}");
        Ok(JoinPlan {
            answer: answer(&container_name, &twin, resolver_route.then_some(resolver)),
            address: record.address,
            host_name,
            container_name,
        })
    }

    /// The veth of a Join exists.
    pub fn plugged(&mut self, endpoint_id: &str, ifindex: u32) {
        let record = self.endpoints.get_mut(endpoint_id);
        if let Some(joined) = record.and_then(|endpoint| endpoint.joined.as_mut()) {
            joined.ifindex = Some(ifindex);
        }
    }

    /// Unplugs an endpoint; answers the veth to remove.
    pub fn leave(&mut self, endpoint_id: &str) -> Option<String> {
        let record = self.endpoints.get_mut(endpoint_id)?;
        record.ports.clear();
        record.joined.take().map(|joined| joined.host_name)
    }

    /// Unplugs endpoints whose veth is gone (the container died without a word, or the machine was booted). Answers
    /// whether there was one.
    pub fn prune(&mut self, exists: impl Fn(&str, u32) -> bool) -> bool {
        let mut changed = false;
        for endpoint in self.endpoints.values_mut() {
            let gone = endpoint.joined.as_ref().is_some_and(|joined| {
                // Without an index the Join is still under way.
                joined
                    .ifindex
                    .is_some_and(|ifindex| !exists(&joined.host_name, ifindex))
            });
            if gone {
                endpoint.joined = None;
                endpoint.ports.clear();
                changed = true;
            }
        }
        changed
    }

    /// Plugged-in endpoints by Engine endpoint id.
    pub fn locals(&self) -> BTreeMap<String, Local> {
        let plugged = self.endpoints.iter().filter_map(|(id, endpoint)| {
            let joined = endpoint.joined.as_ref()?;
            let twin = self.twins.get(&endpoint.twin)?;
            let local = Local {
                network_id: twin.network_id.clone(),
                vni: twin.vni,
                address: endpoint.address,
                ifindex: joined.ifindex?,
                container: joined.container,
                internal: twin.internal,
                ports: endpoint.ports.clone(),
            };
            Some((id.clone(), local))
        });
        plugged.collect()
    }

    /// Engine network id -> swarm network id.
    pub fn twin_ids(&self) -> BTreeMap<String, String> {
        self.twins
            .iter()
            .map(|(id, twin)| (id.clone(), twin.network_id.clone()))
            .collect()
    }

    fn twin(&self, network_id: &str) -> Result<&TwinRecord, Refusal> {
        self.twins
            .get(network_id)
            .ok_or_else(|| Refusal::UnknownNetwork(network_id.to_string()))
    }

    /// A number that no container has: not 0.
    fn next_container(&mut self) -> u32 {
        let used: BTreeSet<u32> = self
            .endpoints
            .values()
            .filter_map(|endpoint| Some(endpoint.joined.as_ref()?.container))
            .collect();
        let mut number = self.last_container;
        loop {
            number = number.wrapping_add(1).max(1);
            if !used.contains(&number) {
                self.last_container = number;
                return number;
            }
        }
    }
}

fn answer(container_name: &str, twin: &TwinRecord, resolver: Option<Ipv4Addr>) -> wire::Joined {
    let to_resolver = resolver.map(|resolver| wire::StaticRoute {
        destination: format!("{resolver}/32"),
        route_type: wire::ROUTE_CONNECTED,
        next_hop: String::new(),
    });
    wire::Joined {
        interface_name: wire::InterfaceName {
            src_name: container_name.to_string(),
            dst_prefix: "eth".to_string(),
        },
        gateway: if twin.internal {
            String::new()
        } else {
            twin.gateway.to_string()
        },
        static_routes: to_resolver.into_iter().collect(),
        disable_gateway_service: twin.internal,
    }
}

/// MAC address of a container, which follows from its IPv4 address: 02:42:a:b:c:d.
pub fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

fn mac_text(address: Ipv4Addr) -> String {
    mac(address).map(|byte| format!("{byte:02x}")).join(":")
}

/// Addresses of this node's own tasks and attachments in a network.
fn assigned_addresses(items: &Items, network_id: &str) -> BTreeSet<Ipv4Addr> {
    let attachments = items
        .values()
        .flat_map(|Item { kind }| -> Vec<&NetworkAttachment> {
            match kind {
                Some(ItemKind::Task(task)) => task.networks.iter().collect(),
                Some(ItemKind::Attachment(attachment)) => vec![&attachment.network],
                _ => Vec::new(),
            }
        });
    let ours = attachments.filter(|attachment| attachment.network_id == network_id);
    let addresses = ours
        .flat_map(|attachment| &attachment.addresses)
        .filter_map(|text| parse_address(text));
    addresses
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect()
}

/// An address with or without a prefix length.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests;
