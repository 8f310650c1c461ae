//! Objects by what a user typed: full id, then exact name, then id prefix.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::ingress::bare;
use crate::core::state::{ClusterState, task_name};
use crate::model::*;

/// Texts of moby daemon/cluster/helpers.go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error("{kind} {reference} not found")]
    None { kind: &'static str, reference: String },
    #[error("{kind} {reference} is ambiguous ({count} matches found)")]
    Ambiguous {
        kind: &'static str,
        reference: String,
        count: usize,
    },
}

fn find<'a, T>(
    kind: &'static str,
    objects: &'a BTreeMap<String, Arc<T>>,
    reference: &str,
    name: impl Fn(&T) -> &str,
) -> Result<&'a Arc<T>, FindError> {
    let none = || FindError::None {
        kind,
        reference: reference.to_string(),
    };
    if reference.is_empty() {
        return Err(none());
    }
    if let Some(object) = objects.get(reference) {
        return Ok(object);
    }
    let mut matches: Vec<&Arc<T>> = objects
        .values()
        .filter(|object| name(object) == reference)
        .collect();
    if matches.is_empty() {
        matches = objects
            .range(reference.to_string()..)
            .take_while(|(id, _)| id.starts_with(reference))
            .map(|(_, object)| object)
            .collect();
    }
    match matches.as_slice() {
        [] => Err(none()),
        [one] => Ok(one),
        many => Err(FindError::Ambiguous {
            kind,
            reference: reference.to_string(),
            count: many.len(),
        }),
    }
}

pub fn node<'a>(state: &'a ClusterState, reference: &str) -> Result<&'a Arc<Node>, FindError> {
    find("node", &state.nodes, reference, |node| {
        node.description.as_ref().map_or("", |d| d.hostname.as_str())
    })
}

pub fn service<'a>(state: &'a ClusterState, reference: &str) -> Result<&'a Arc<Service>, FindError> {
    find("service", &state.services, reference, |service| {
        &service.spec.annotations.name
    })
}

pub fn task<'a>(state: &'a ClusterState, reference: &str) -> Result<&'a Arc<Task>, FindError> {
    if let Some((_, rest)) = reference.split_once('.')
        && let Some((_, id)) = rest.split_once('.')
        && let Some(task) = state.tasks.get(id)
        && task_name(task) == reference
    {
        return Ok(task);
    }
    find("task", &state.tasks, reference, |_| "")
}

pub fn network<'a>(state: &'a ClusterState, reference: &str) -> Result<&'a Arc<Network>, FindError> {
    find("network", &state.networks, reference, |network| {
        &network.spec.annotations.name
    })
}

/// By address, with or without its prefix length, or by id.
pub fn ingress_address<'a>(
    state: &'a ClusterState,
    reference: &str,
) -> Result<&'a Arc<IngressAddress>, FindError> {
    match bare(reference).and_then(|address| state.ingress_address(address)) {
        Some(found) => Ok(found),
        None => find("ingress address", &state.ingress_addresses, reference, |_| ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(services: &[(&str, &str)]) -> ClusterState {
        let mut state = ClusterState::default();
        for (id, name) in services {
            let mut service = Service {
                id: id.to_string(),
                ..Service::default()
            };
            service.spec.annotations.name = name.to_string();
            state.services.insert(id.to_string(), Arc::new(service));
        }
        state
    }

    #[test]
    fn id_then_name_then_prefix() {
        let state = state(&[("ab1", "x"), ("ab2", "ab1"), ("cd", "ab")]);
        assert_eq!(service(&state, "ab1").unwrap().id, "ab1");
        assert_eq!(service(&state, "ab").unwrap().id, "cd");
        assert_eq!(service(&state, "ab2").unwrap().id, "ab2");
        assert_eq!(service(&state, "c").unwrap().id, "cd");
        assert_eq!(
            service(&state, "a").unwrap_err().to_string(),
            "service a is ambiguous (2 matches found)"
        );
        assert_eq!(
            service(&state, "z").unwrap_err().to_string(),
            "service z not found"
        );
        assert!(service(&state, "").is_err());
    }
}
