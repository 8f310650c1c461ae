//! Plain containers on attachable networks: an address from create to remove.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{Answer, At, not_found};
use crate::core::address::{AddressBook, Unavailable};
use crate::core::state::{ClusterState, REST};
use crate::core::validate::refuse;
use crate::model::*;

pub fn create(state: &mut ClusterState, at: At, c: &CreateAttachment) -> Answer {
    if state.attachments.contains_key(&c.id) || state.tasks.contains_key(&c.id) {
        return Err(refuse(
            Code::AlreadyExists,
            format!("attachment {} already exists", c.id),
        ));
    }
    if !state.nodes.contains_key(&c.node_id) {
        return Err(not_found("node", &c.node_id));
    }
    let network = state
        .networks
        .get(&c.network)
        .or_else(|| state.network_named(&c.network))
        .cloned()
        .ok_or_else(|| not_found("network", &c.network))?;
    if !network.spec.attachable {
        let message = format!(
            "network {} not manually attachable",
            network.spec.annotations.name
        );
        return Err(refuse(Code::PermissionDenied, message));
    }
    let mut book = AddressBook::new(state, at.now);
    let address = if c.address.is_empty() {
        book.take(&network)
            .ok_or_else(|| refuse(Code::FailedPrecondition, "could not find an available IP"))?
    } else {
        wished(&mut book, &network, &c.address)?
    };
    let attachment = Attachment {
        id: c.id.clone(),
        meta: at.created(),
        node_id: c.node_id.clone(),
        network: NetworkAttachment {
            network_id: network.id.clone(),
            addresses: vec![address.clone()],
            aliases: Vec::new(),
        },
        container_id: String::new(),
        names: c.names.clone(),
    };
    state.attachments.insert(c.id.clone(), Arc::new(attachment));
    Ok(Applied {
        address,
        ..Default::default()
    })
}

fn wished(book: &mut AddressBook, network: &Network, text: &str) -> Result<String, Refused> {
    let name = &network.spec.annotations.name;
    let address: Ipv4Addr = text
        .parse()
        .map_err(|_| refuse(Code::InvalidArgument, format!("invalid IPv4 address: {text}")))?;
    book.take_wished(network, address).map_err(|why| match why {
        Unavailable::Outside => refuse(
            Code::InvalidArgument,
            format!("no configured subnet of network {name} contains the address {address}"),
        ),
        Unavailable::InUse => refuse(
            Code::FailedPrecondition,
            format!("Address already in use: {address} on network {name}"),
        ),
    })
}

/// The container became known, or the place is given back. Removing twice is no error: the node may repeat itself.
pub fn update(state: &mut ClusterState, at: At, c: &UpdateAttachment) -> Answer {
    let Some(attachment) = state.attachments.get(&c.id).cloned() else {
        return if c.remove {
            Ok(Applied::default())
        } else {
            Err(not_found("attachment", &c.id))
        };
    };
    if attachment.node_id != c.node_id {
        let message = format!("attachment {} belongs to another node", c.id);
        return Err(refuse(Code::PermissionDenied, message));
    }
    if c.remove {
        free(state, &attachment, at.now + REST);
        return Ok(Applied::default());
    }
    if let Some(container_id) = &c.container_id
        && *container_id != attachment.container_id
    {
        let mut attachment = Attachment::clone(&attachment);
        attachment.container_id.clone_from(container_id);
        at.touch(&mut attachment.meta);
        state.attachments.insert(c.id.clone(), Arc::new(attachment));
    }
    Ok(Applied::default())
}

/// Removes the record; its address rests.
pub fn free(state: &mut ClusterState, attachment: &Attachment, until: Timestamp) {
    state.attachments.remove(&attachment.id);
    for address in &attachment.network.addresses {
        state.rest(&attachment.network.network_id, address, until);
    }
}
