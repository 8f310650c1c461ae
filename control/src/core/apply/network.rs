//! Networks: subnet, gateway and VNI come with the object, or it is refused.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::{Answer, At, not_found};
use crate::core::address;
use crate::core::state::*;
use crate::core::validate::{self, refuse};
use crate::model::*;

pub fn create(state: &mut ClusterState, at: At, c: &CreateNetwork) -> Answer {
    let name = &c.spec.annotations.name;
    validate::name(name)?;
    if state.networks.contains_key(&c.id) {
        return Err(refuse(
            Code::AlreadyExists,
            format!("network {} already exists", c.id),
        ));
    }
    if state.network_named(name).is_some() {
        return Err(refuse(
            Code::AlreadyExists,
            format!("network with name {name} already exists"),
        ));
    }
    if c.spec.ingress {
        check_ingress(state, &c.spec)?;
    }
    if c.spec.ipv6 {
        return Err(refuse(
            Code::Unimplemented,
            "IPv6 on overlay networks is not supported yet",
        ));
    }
    let ipam = subnets(state, at, &c.spec)?;
    let vni = address::next_vni(state)
        .ok_or_else(|| refuse(Code::FailedPrecondition, "no VNI is left for another network"))?;
    state.last_vni = vni;
    for config in &ipam {
        state.resting.remove(&(String::new(), config.subnet.clone()));
    }
    let network = Network {
        id: c.id.clone(),
        meta: at.created(),
        spec: c.spec.clone(),
        vni,
        ipam,
    };
    state.networks.insert(c.id.clone(), Arc::new(network));
    Ok(Applied::default())
}

fn check_ingress(state: &ClusterState, spec: &NetworkSpec) -> Result<(), Refused> {
    if let Some(present) = state.ingress() {
        return Err(refuse(
            Code::AlreadyExists,
            format!("ingress network ({}) is already present", present.id),
        ));
    }
    if spec.attachable {
        return Err(refuse(
            Code::InvalidArgument,
            "ingress network cannot be attachable",
        ));
    }
    Ok(())
}

/// The subnets asked for, checked and with their gateways; the next free one if none is asked for.
fn subnets(state: &ClusterState, at: At, spec: &NetworkSpec) -> Result<Vec<IpamConfig>, Refused> {
    let asked: &[IpamConfig] = spec.ipam.as_ref().map_or(&[], |i| &i.configs);
    let none = [IpamConfig::default()];
    let asked = if asked.is_empty() { &none } else { asked };
    let mut taken: Vec<IpamConfig> = Vec::new();
    for config in asked {
        let subnet = if config.subnet.is_empty() {
            next_subnet(state, at, &taken)?
        } else {
            asked_subnet(state, config, &taken)?
        };
        taken.push(IpamConfig {
            subnet: subnet.to_string(),
            range: range(config, &subnet)?,
            gateway: gateway(config, &subnet)?.to_string(),
        });
    }
    Ok(taken)
}

fn next_subnet(state: &ClusterState, at: At, taken: &[IpamConfig]) -> Result<Ipv4Net, Refused> {
    if !taken.is_empty() {
        return Err(invalid(
            "a network with several subnets must name each of them".into(),
        ));
    }
    address::next_subnet(state, at.now).ok_or_else(|| {
        refuse(
            Code::FailedPrecondition,
            "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network",
        )
    })
}

fn asked_subnet(state: &ClusterState, config: &IpamConfig, taken: &[IpamConfig]) -> Result<Ipv4Net, Refused> {
    let subnet = match config.subnet.parse::<IpNet>() {
        Ok(IpNet::V4(subnet)) => subnet.trunc(),
        Ok(IpNet::V6(_)) => {
            return Err(refuse(
                Code::Unimplemented,
                "IPv6 on overlay networks is not supported yet",
            ));
        }
        Err(_) => return Err(invalid(format!("invalid subnet {}: not a CIDR", config.subnet))),
    };
    if subnet.prefix_len() > 29 || subnet.prefix_len() < 8 {
        return Err(invalid(format!(
            "invalid subnet {subnet}: its prefix must be /8 to /29"
        )));
    }
    let others = address::subnets(state);
    let own = taken
        .iter()
        .filter_map(|c| Some((c.subnet.parse().ok()?, "itself")));
    if let Some((other, name)) = others
        .into_iter()
        .chain(own)
        .find(|(o, _)| address::overlap(o, &subnet))
    {
        return Err(invalid(format!(
            "invalid pool request: Pool overlaps with other one on this address space: {subnet} overlaps {other} of network {name}"
        )));
    }
    if let Some((inside, node)) = address::underlay(state).find(|(a, _)| subnet.contains(a)) {
        return Err(invalid(format!(
            "invalid pool request: {subnet} contains {inside}, the address of node {node}"
        )));
    }
    if let Some(inside) = address::ingress(state).find(|a| subnet.contains(a)) {
        return Err(invalid(format!(
            "invalid pool request: {subnet} contains {inside}, an ingress address of the swarm"
        )));
    }
    Ok(subnet)
}

fn range(config: &IpamConfig, subnet: &Ipv4Net) -> Result<String, Refused> {
    if config.range.is_empty() {
        return Ok(String::new());
    }
    match config.range.parse::<Ipv4Net>() {
        Ok(range) if subnet.contains(&range) => Ok(range.trunc().to_string()),
        _ => Err(invalid(format!(
            "invalid ip-range {}: not in subnet {subnet}",
            config.range
        ))),
    }
}

fn gateway(config: &IpamConfig, subnet: &Ipv4Net) -> Result<Ipv4Addr, Refused> {
    if config.gateway.is_empty() {
        return Ok(Ipv4Addr::from(u32::from(subnet.network()) + 1));
    }
    match config.gateway.parse::<Ipv4Addr>() {
        Ok(gateway)
            if subnet.contains(&gateway) && gateway != subnet.network() && gateway != subnet.broadcast() =>
        {
            Ok(gateway)
        }
        _ => Err(invalid(format!(
            "invalid gateway {}: not an address of subnet {subnet}",
            config.gateway
        ))),
    }
}

fn invalid(message: String) -> Refused {
    refuse(Code::InvalidArgument, message)
}

/// Tasks that are about to stop do not hold a network: `stack rm` deletes it while they still run
/// (swarmkit manager/controlapi/network.go).
pub fn remove(state: &mut ClusterState, at: At, c: &RemoveNetwork) -> Answer {
    let network = state
        .networks
        .get(&c.id)
        .cloned()
        .ok_or_else(|| not_found("network", &c.id))?;
    for service in state.services.values() {
        if network.spec.ingress && uses_ingress(&service.ports) {
            return Err(refuse(
                Code::FailedPrecondition,
                format!(
                    "ingress network cannot be removed because service {} depends on it",
                    service.id
                ),
            ));
        }
        if networks_of(&service.spec).iter().any(|n| n.target == c.id) {
            return Err(in_use(&c.id, "service", &service.id));
        }
    }
    let user = state
        .tasks
        .values()
        .find(|t| is_wanted(t) && !has_ended(t) && t.networks.iter().any(|n| n.network_id == c.id));
    if let Some(task) = user {
        return Err(in_use(&c.id, "task", &task.id));
    }
    if let Some(a) = state.attachments.values().find(|a| a.network.network_id == c.id) {
        return Err(in_use(&c.id, "task", &a.id));
    }
    state.networks.remove(&c.id);
    state.resting.retain(|(id, _), _| *id != c.id);
    for config in &network.ipam {
        let key = (String::new(), config.subnet.clone());
        state.resting.insert(key, at.now + REST);
    }
    Ok(Applied::default())
}

fn in_use(network: &str, kind: &str, by: &str) -> Refused {
    refuse(
        Code::FailedPrecondition,
        format!("network {network} is in use by {kind} {by}"),
    )
}
