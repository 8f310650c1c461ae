//! Ingress addresses: checked when they are made; ranks are taken as planned, if nothing changed meanwhile.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::{Answer, At, not_found};
use crate::core::address;
use crate::core::constraint;
use crate::core::ingress::{self, ADDRESS_LABEL, Behind, MODE_LABEL, address_of, mode_of};
use crate::core::state::{ClusterState, node_name};
use crate::core::validate::refuse;
use crate::model::*;

/// Of a network device's name, without the end mark (IFNAMSIZ, linux/if.h).
const MAX_INTERFACE: usize = 15;

/// Every node carries a table of them, and a holder's claims go out for each.
const MAX_ADDRESSES: usize = 256;

/// Owners come with the leader's next plan.
pub fn create(state: &mut ClusterState, at: At, c: &CreateIngressAddress) -> Answer {
    let address = checked(state, &c.spec)?;
    if c.id.is_empty() || state.ingress_addresses.contains_key(&c.id) {
        return Err(refuse(
            Code::AlreadyExists,
            format!("ingress address {} already exists", c.id),
        ));
    }
    if state.ingress_addresses.len() >= MAX_ADDRESSES {
        return Err(refuse(
            Code::FailedPrecondition,
            format!("the swarm has {MAX_ADDRESSES} ingress addresses: there can be no more"),
        ));
    }
    state.last_ingress_index += 1;
    let record = IngressAddress {
        id: c.id.clone(),
        meta: at.created(),
        spec: IngressAddressSpec {
            address: address.to_string(),
            ..c.spec.clone()
        },
        index: state.last_ingress_index,
        ..Default::default()
    };
    state.ingress_addresses.insert(c.id.clone(), Arc::new(record));
    Ok(Applied {
        address: address.to_string(),
        ..Default::default()
    })
}

fn checked(state: &ClusterState, spec: &IngressAddressSpec) -> Result<Ipv4Net, Refused> {
    let net = parsed(&spec.address)?;
    let address = net.addr();
    if state.ingress_address(address.into()).is_some() {
        return Err(refuse(
            Code::AlreadyExists,
            format!("ingress address {address} already exists"),
        ));
    }
    if let Some(node) = state.nodes.values().find(|n| has(n, address)) {
        let name = node_name(node);
        return Err(invalid(format!("{address} is the address of node {name}")));
    }
    if let Some((subnet, name)) = address::subnets(state)
        .into_iter()
        .find(|(s, _)| s.contains(&address))
    {
        return Err(invalid(format!(
            "{address} lies in {subnet}, a subnet of network {name}: clients could not reach it"
        )));
    }
    interface(&spec.interface)?;
    for text in &spec.constraints {
        constraint::parse_known(text)
            .map_err(|reason| invalid(format!("invalid constraint '{text}': {reason}")))?;
    }
    Ok(net)
}

fn has(node: &Node, address: Ipv4Addr) -> bool {
    let of_node = [&node.address, &node.data_path_address];
    of_node.iter().any(|text| text.parse() == Ok(address))
}

/// An address that a node of the subnet could have.
fn parsed(text: &str) -> Result<Ipv4Net, Refused> {
    let no_cidr = || {
        invalid(format!(
            "invalid ingress address '{text}': expected an address with its prefix length, such as 192.168.50.100/24"
        ))
    };
    let net = match text.parse::<IpNet>() {
        Ok(IpNet::V4(net)) => net,
        Ok(IpNet::V6(_)) => return Err(no_ipv6()),
        Err(_) if matches!(text.parse(), Ok(IpAddr::V6(_))) => return Err(no_ipv6()),
        Err(_) => return Err(no_cidr()),
    };
    let address = net.addr();
    let not = |what: &str| {
        Err(invalid(format!(
            "{address} cannot be an ingress address: it is {what}"
        )))
    };
    if address.is_loopback() {
        return not("a loopback address");
    }
    if address.is_multicast() {
        return not("a multicast address");
    }
    if address.is_link_local() {
        return not("a link-local address");
    }
    // 0/8 is "this network" and 240/4 reserved (RFC 6890); the broadcast address is in the latter.
    if address.octets()[0] == 0 || address.octets()[0] >= 240 {
        return not("reserved");
    }
    if net.prefix_len() < 8 {
        return Err(invalid(format!(
            "invalid ingress address {net}: its prefix must be /8 to /32"
        )));
    }
    let edges: [Ipv4Addr; 2] = [net.network(), net.broadcast()];
    if net.prefix_len() < 31 && edges.contains(&address) {
        return not(&format!("no host's address in {}", net.trunc()));
    }
    Ok(net)
}

fn no_ipv6() -> Refused {
    refuse(
        Code::Unimplemented,
        "IPv6 ingress addresses are not supported yet",
    )
}

fn interface(name: &str) -> Result<(), Refused> {
    let odd = |c: char| c.is_whitespace() || c == '/' || c == ':' || c.is_control();
    if name.len() > MAX_INTERFACE || name.contains(odd) || name == "." || name == ".." {
        return Err(invalid(format!("'{name}' cannot be the name of an interface")));
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> Refused {
    refuse(Code::InvalidArgument, message)
}

pub fn remove(state: &mut ClusterState, c: &RemoveIngressAddress) -> Answer {
    let address = find(state, &c.id)?;
    let behind = Behind::read(state);
    let users: Vec<&str> = behind
        .named(&address)
        .iter()
        .map(|s| s.spec.annotations.name.as_str())
        .collect();
    if !users.is_empty() {
        let kind = if users.len() == 1 { "service" } else { "services" };
        return Err(refuse(
            Code::FailedPrecondition,
            format!(
                "ingress address {} is in use by {kind} {} (label {ADDRESS_LABEL})",
                ingress::bare_text(&address),
                users.join(", ")
            ),
        ));
    }
    state.ingress_addresses.remove(&c.id);
    Ok(Applied::default())
}

fn find(state: &ClusterState, id: &str) -> Result<Arc<IngressAddress>, Refused> {
    let found = state.ingress_addresses.get(id).cloned();
    found.ok_or_else(|| not_found("ingress address", id))
}

pub fn rank(state: &mut ClusterState, at: At, c: &RankIngressAddresses) -> Answer {
    for rank in &c.ranks {
        let Some(record) = state.ingress_addresses.get_mut(&rank.id) else {
            continue;
        };
        let same = record.owners == rank.owners && record.observers == rank.observers;
        if record.epoch != rank.epoch || same {
            continue;
        }
        let record = Arc::make_mut(record);
        if rank.owners.first() != Some(&record.moved_to) {
            record.moved_to = 0;
        }
        record.owners.clone_from(&rank.owners);
        record.observers.clone_from(&rank.observers);
        record.epoch += 1;
        at.touch(&mut record.meta);
    }
    Ok(Applied::default())
}

pub fn move_to(state: &mut ClusterState, at: At, c: &MoveIngressAddress) -> Answer {
    let record = find(state, &c.id)?;
    let node = state
        .nodes
        .get(&c.node_id)
        .ok_or_else(|| not_found("node", &c.node_id))?;
    if let Some(reason) = ingress::refusal(state, &record, node) {
        return Err(refuse(
            Code::FailedPrecondition,
            format!(
                "ingress address {} cannot move to node {}: {reason}",
                ingress::bare_text(&record),
                node_name(node)
            ),
        ));
    }
    let first = node.index;
    let mut record = IngressAddress::clone(&record);
    record.moved_to = first;
    if record.owners.first() != Some(&first) {
        record.owners.retain(|owner| *owner != first);
        record.owners.insert(0, first);
        record.owners.truncate(ingress::MAX_OWNERS);
        record.epoch += 1;
    }
    at.touch(&mut record.meta);
    state.ingress_addresses.insert(c.id.clone(), Arc::new(record));
    Ok(Applied::default())
}

/// What a service's labels ask for can be had. `old` is the spec that an update replaces: what it had is not refused again.
pub fn check_labels(
    state: &ClusterState,
    spec: &ServiceSpec,
    old: Option<&ServiceSpec>,
) -> Result<(), Refused> {
    let mode = mode_of(spec).map_err(|word| {
        invalid(format!(
            "invalid label {MODE_LABEL}={word}: expected mesh, dsr or local"
        ))
    })?;
    let asked = address_of(spec).map_err(|text| {
        invalid(format!(
            "invalid label {ADDRESS_LABEL}={text}: expected an address such as 192.168.50.100"
        ))
    })?;
    if let Some(address) = asked
        && state.ingress_address(address).is_none()
    {
        return Err(invalid(format!(
            "ingress address {address} (label {ADDRESS_LABEL}) is not known: add it with 'skep ingress address add {address}/PREFIX'"
        )));
    }
    let was_dsr = old.is_some_and(|old| mode_of(old) == Ok(IngressMode::Dsr));
    if mode == IngressMode::Dsr && !was_dsr {
        check_dsr(state)?;
    }
    Ok(())
}

fn check_dsr(state: &ClusterState) -> Result<(), Refused> {
    let ready = state.nodes.values().filter(|n| n.state() == NodeState::Ready);
    let told = ready.filter_map(|n| Some((n, n.description.as_ref()?)));
    let Some((node, description)) = told.into_iter().find(|(_, d)| d.dsr() == Dsr::Dropped) else {
        return Ok(());
    };
    let detail = match description.dsr_text.as_str() {
        "" => String::new(),
        text => format!(": {text}"),
    };
    Err(refuse(
        Code::FailedPrecondition,
        format!(
            "{MODE_LABEL}=dsr does not work in this swarm: the network drops packets with another node's source address (seen by node {}{detail}); use mesh",
            node_name(node)
        ),
    ))
}
