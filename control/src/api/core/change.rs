//! Events of the swarm: what changed between two states (moby daemon/cluster and daemon/events.go word them).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::filter::Filters;
use super::shape::node::{availability_text, node_state_text, role_text};
use crate::core::state::ClusterState;
use crate::model::{Network, Node, Service, ServiceMode, Timestamp};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: &'static str,
    pub action: &'static str,
    pub id: String,
    pub attributes: BTreeMap<String, String>,
    pub at: Timestamp,
}

impl Event {
    pub fn shape(&self) -> Value {
        json!({
            "Type": self.kind,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": self.attributes},
            "scope": "swarm",
            "time": self.at / 1_000_000_000,
            "timeNano": self.at,
        })
    }

    /// As moby daemon/events/filter.go does: names and ids of every kind match by prefix.
    pub fn passes(&self, filters: &Filters) -> bool {
        let name = self.attributes.get("name").map_or("", String::as_str);
        let named = [
            "container",
            "plugin",
            "volume",
            "network",
            "service",
            "node",
            "secret",
            "config",
        ];
        filters.exact("scope", "swarm")
            && filters.exact("type", self.kind)
            && filters.exact("event", self.action)
            && !filters.has("daemon")
            && !filters.has("image")
            && filters.labels("label", &self.attributes)
            && named
                .iter()
                .all(|key| filters.prefix(key, &self.id) || filters.prefix(key, name))
    }
}

/// What a client would be told of the way from `old` to `new`. `now` dates removals; the rest is dated by its record.
pub fn changes(old: &ClusterState, new: &ClusterState, now: Timestamp) -> Vec<Event> {
    let mut events = Vec::new();
    diff(
        &mut events,
        "network",
        &old.networks,
        &new.networks,
        now,
        &network,
    );
    diff(&mut events, "node", &old.nodes, &new.nodes, now, &node);
    diff(
        &mut events,
        "service",
        &old.services,
        &new.services,
        now,
        &service,
    );
    events
}

/// What is said of a record and its predecessor; none if it is not worth an event.
type Describe<T> = dyn Fn(Option<&T>, &T) -> Option<(Timestamp, BTreeMap<String, String>)>;

fn diff<T: PartialEq>(
    events: &mut Vec<Event>,
    kind: &'static str,
    old: &BTreeMap<String, Arc<T>>,
    new: &BTreeMap<String, Arc<T>>,
    now: Timestamp,
    describe: &Describe<T>,
) {
    let mut push = |action, id: &str, said: Option<(Timestamp, BTreeMap<String, String>)>| {
        events.extend(said.map(|(at, attributes)| Event {
            kind,
            action,
            id: id.to_string(),
            attributes,
            at,
        }));
    };
    for (id, record) in old.iter().filter(|(id, _)| !new.contains_key(*id)) {
        let said = describe(None, record).map(|(_, attributes)| (now, attributes));
        push("remove", id, said);
    }
    for (id, record) in new {
        match old.get(id) {
            None => push("create", id, describe(None, record)),
            Some(before) if Arc::ptr_eq(before, record) || before == record => {}
            Some(before) => push("update", id, describe(Some(before), record)),
        }
    }
}

fn network(old: Option<&Network>, network: &Network) -> Option<(Timestamp, BTreeMap<String, String>)> {
    let name = ("name".to_string(), network.spec.annotations.name.clone());
    old.is_none()
        .then(|| (network.meta.created_at, BTreeMap::from([name])))
}

fn pair(attributes: &mut BTreeMap<String, String>, key: &str, old: &str, new: &str) {
    if old == new {
        return;
    }
    if !old.is_empty() {
        attributes.insert(format!("{key}.old"), old.to_string());
    }
    if !new.is_empty() {
        attributes.insert(format!("{key}.new"), new.to_string());
    }
}

fn node(old: Option<&Node>, node: &Node) -> Option<(Timestamp, BTreeMap<String, String>)> {
    let name = node.description.as_ref().map_or("", |d| d.hostname.as_str());
    let mut attributes = BTreeMap::from([("name".to_string(), name.to_string())]);
    if let Some(old) = old {
        pair(
            &mut attributes,
            "availability",
            availability_text(old.spec.availability()),
            availability_text(node.spec.availability()),
        );
        pair(
            &mut attributes,
            "role",
            role_text(old.spec.role()),
            role_text(node.spec.role()),
        );
        pair(
            &mut attributes,
            "state",
            node_state_text(old.state()),
            node_state_text(node.state()),
        );
    }
    Some((node.meta.updated_at, attributes))
}

fn service(old: Option<&Service>, service: &Service) -> Option<(Timestamp, BTreeMap<String, String>)> {
    let mut attributes = BTreeMap::from([("name".to_string(), service.spec.annotations.name.clone())]);
    if let Some(old) = old {
        pair(&mut attributes, "replicas", &replicas(old), &replicas(service));
        pair(
            &mut attributes,
            "image",
            &old.spec.task.container.image,
            &service.spec.task.container.image,
        );
        pair(
            &mut attributes,
            "updatestate",
            update_state(old),
            update_state(service),
        );
    }
    Some((service.meta.updated_at, attributes))
}

fn replicas(service: &Service) -> String {
    match &service.spec.mode {
        Some(ServiceMode::Replicated(mode)) => mode.replicas.unwrap_or(1).to_string(),
        _ => String::new(),
    }
}

fn update_state(service: &Service) -> &str {
    service
        .update_status
        .as_ref()
        .map_or("", |status| status.state.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ReplicatedMode, UpdateStatus};

    fn web(replicas: u64, update: Option<&str>) -> Arc<Service> {
        let mut service = Service {
            id: "s1".to_string(),
            ..Service::default()
        };
        service.spec.annotations.name = "web".to_string();
        service.spec.mode = Some(ServiceMode::Replicated(ReplicatedMode {
            replicas: Some(replicas),
        }));
        service.update_status = update.map(|state| UpdateStatus {
            state: state.to_string(),
            ..UpdateStatus::default()
        });
        Arc::new(service)
    }

    fn state(service: Option<Arc<Service>>) -> ClusterState {
        let services = service.into_iter().map(|service| (service.id.clone(), service));
        ClusterState {
            services: services.collect(),
            ..ClusterState::default()
        }
    }

    #[test]
    fn a_service_lives() {
        let told = |old: &ClusterState, new: &ClusterState| {
            changes(old, new, 9)
                .into_iter()
                .map(|event| format!("{} {} {:?}", event.kind, event.action, event.attributes))
                .collect::<Vec<_>>()
        };
        let (none, one, two) = (
            state(None),
            state(Some(web(1, None))),
            state(Some(web(2, Some("updating")))),
        );
        assert_eq!(told(&none, &one), [r#"service create {"name": "web"}"#]);
        assert_eq!(
            told(&one, &two),
            [
                r#"service update {"name": "web", "replicas.new": "2", "replicas.old": "1", "updatestate.new": "updating"}"#
            ]
        );
        assert_eq!(told(&two, &none), [r#"service remove {"name": "web"}"#]);
        assert!(told(&two, &two).is_empty());
    }

    #[test]
    fn filters_choose() {
        let event = &changes(&state(None), &state(Some(web(1, None))), 1)[0];
        let passes = |text| event.passes(&Filters::parse_any(text).unwrap());
        assert!(passes(""));
        assert!(passes(
            r#"{"type":["service"],"scope":["swarm"],"service":["web"]}"#
        ));
        assert!(!passes(r#"{"scope":["local"]}"#));
        assert!(!passes(r#"{"event":["start"]}"#));
        assert!(!passes(r#"{"container":["x"]}"#));
    }
}
