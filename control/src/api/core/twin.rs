//! Node-local twin networks. The Engine knows an overlay under an id of its own, with scope local; clients know one
//! id, the swarm's. Everything the Engine says about networks goes through here.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::shape::network::Overlay;

/// The overlays this node knows, and their twins.
pub struct Twins {
    /// Engine network id -> swarm network id.
    to_swarm: Arc<BTreeMap<String, String>>,
    /// By swarm network id: all of the swarm on a manager, those it hosts on a worker.
    overlays: BTreeMap<String, Overlay>,
}

impl Twins {
    pub fn new(to_swarm: Arc<BTreeMap<String, String>>, overlays: BTreeMap<String, Overlay>) -> Twins {
        Twins { to_swarm, overlays }
    }

    /// Whether this node has no twin, so that nothing the Engine says needs a change.
    pub fn is_empty(&self) -> bool {
        self.to_swarm.is_empty()
    }

    pub fn overlays(&self) -> impl Iterator<Item = &Overlay> {
        self.overlays.values()
    }

    /// Swarm id of a twin.
    pub fn swarm_id(&self, engine_id: &str) -> Option<&str> {
        self.to_swarm.get(engine_id).map(String::as_str)
    }

    /// Engine id of the twin of an overlay given by swarm id or name, if it exists on this node.
    pub fn engine_id(&self, reference: &str) -> Option<String> {
        let overlay = self.exact(reference)?;
        let (engine_id, _) = self
            .to_swarm
            .iter()
            .find(|(_, swarm_id)| **swarm_id == overlay.id)?;
        Some(engine_id.clone())
    }

    /// The overlay of that full swarm id, name, or full engine id.
    pub fn exact(&self, reference: &str) -> Option<&Overlay> {
        self.overlays
            .get(reference)
            .or_else(|| self.overlays.values().find(|overlay| overlay.name == reference))
            .or_else(|| self.overlays.get(self.swarm_id(reference)?))
    }

    /// The overlay whose twin's id begins so.
    pub fn by_engine_prefix(&self, prefix: &str) -> Option<&Overlay> {
        if prefix.is_empty() {
            return None;
        }
        let (_, swarm_id) = self
            .to_swarm
            .iter()
            .find(|(engine_id, _)| engine_id.starts_with(prefix))?;
        self.overlays.get(swarm_id)
    }

    /// The overlays whose swarm id begins so.
    pub fn by_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Overlay> {
        self.overlays
            .values()
            .filter(move |overlay| overlay.id.starts_with(prefix))
    }

    /// `/containers/{id}/json` and elements of `/containers/json`.
    pub fn rewrite_container(&self, container: &mut Value) {
        if let Some(mode) = container.pointer_mut("/HostConfig/NetworkMode")
            && let Some(swarm_id) = mode.as_str().and_then(|mode| self.swarm_id(mode))
        {
            // Users write the name; so does Docker when it is one of Swarm's own networks.
            let name = self
                .overlays
                .get(swarm_id)
                .map_or(swarm_id, |overlay| overlay.name.as_str());
            *mode = Value::String(name.to_string());
        }
        let Some(networks) = container
            .pointer_mut("/NetworkSettings/Networks")
            .and_then(Value::as_object_mut)
        else {
            return;
        };
        for endpoint in networks.values_mut() {
            if let Some(id) = endpoint.get_mut("NetworkID")
                && let Some(swarm_id) = id.as_str().and_then(|id| self.swarm_id(id))
            {
                *id = Value::String(swarm_id.to_string());
            }
        }
    }

    /// An event of the Engine. False: it tells of a twin's own making or removal, which clients know nothing of.
    pub fn rewrite_event(&self, event: &mut Value) -> bool {
        if event["Type"] != "network" {
            return true;
        }
        let Some(swarm_id) = event["Actor"]["ID"].as_str().and_then(|id| self.swarm_id(id)) else {
            return true;
        };
        let swarm_id = swarm_id.to_string();
        event["Actor"]["ID"] = Value::String(swarm_id);
        event["Actor"]["Attributes"]["type"] = Value::String("overlay".to_string());
        event["Action"] == "connect" || event["Action"] == "disconnect"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Network, NetworkSpec};
    use serde_json::json;

    fn twins() -> Twins {
        let mut network = Network {
            id: "swarmid".to_string(),
            spec: NetworkSpec::default(),
            ..Network::default()
        };
        network.spec.annotations.name = "app".to_string();
        let to_swarm = BTreeMap::from([("e".repeat(64), "swarmid".to_string())]);
        let overlays = BTreeMap::from([("swarmid".to_string(), Overlay::from(&network))]);
        Twins::new(Arc::new(to_swarm), overlays)
    }

    #[test]
    fn containers_show_the_swarm_id() {
        let mut container = json!({
            "HostConfig": {"NetworkMode": "e".repeat(64)},
            "NetworkSettings": {"Networks": {
                "app": {"NetworkID": "e".repeat(64)}, "bridge": {"NetworkID": "b"},
            }},
        });
        twins().rewrite_container(&mut container);
        assert_eq!(container["HostConfig"]["NetworkMode"], "app");
        assert_eq!(
            container["NetworkSettings"]["Networks"]["app"]["NetworkID"],
            "swarmid"
        );
        assert_eq!(
            container["NetworkSettings"]["Networks"]["bridge"]["NetworkID"],
            "b"
        );
    }

    #[test]
    fn events_show_the_swarm_id() {
        let event =
            |action: &str| json!({"Type": "network", "Action": action, "Actor": {"ID": "e".repeat(64)}});
        let mut connect = event("connect");
        assert!(twins().rewrite_event(&mut connect));
        assert_eq!(connect["Actor"]["ID"], "swarmid");
        assert!(!twins().rewrite_event(&mut event("create")));
        let mut other = json!({"Type": "container", "Action": "start"});
        assert!(twins().rewrite_event(&mut other));
    }

    #[test]
    fn references() {
        let twins = twins();
        assert_eq!(twins.exact("app").unwrap().id, "swarmid");
        assert_eq!(twins.exact(&"e".repeat(64)).unwrap().id, "swarmid");
        assert_eq!(twins.engine_id("app"), Some("e".repeat(64)));
        assert!(twins.exact("swarm").is_none());
        assert_eq!(twins.by_prefix("swarm").count(), 1);
    }
}
