//! Bodies of `/containers/create` and of `/networks/{id}/connect`: which overlays they name, and how they are written
//! so that the Engine finds the twin network and gives the container the address that the swarm chose.

use serde_json::{Map, Value, json};

/// Places where clients expect Docker's socket.
const DOCKER_SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/docker.sock"];
/// A container with this label set to `engine` keeps the Engine's own socket.
const SOCKET_LABEL: &str = "skep.docker-socket";

/// A network that a create body names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// As the client wrote it.
    pub network: String,
    pub aliases: Vec<String>,
    /// Fixed IPv4 address, or empty.
    pub address: String,
}

/// What a wish became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub wish: Wish,
    pub attachment_id: String,
    /// Without prefix length.
    pub address: String,
    pub engine_id: String,
    /// The twin's name, which is the overlay's.
    pub name: String,
}

/// Networks that only the Engine can mean.
pub fn is_predefined(network: &str) -> bool {
    matches!(network, "" | "default" | "bridge" | "host" | "none" | "nat")
        || network.starts_with("container:")
}

/// Every network a create body names that might be an overlay; the one of `NetworkMode` first.
pub fn wishes(body: &Value) -> Vec<Wish> {
    let mode = body
        .pointer("/HostConfig/NetworkMode")
        .and_then(Value::as_str)
        .unwrap_or("");
    let endpoints = body
        .pointer("/NetworkingConfig/EndpointsConfig")
        .and_then(Value::as_object);
    let mut wishes: Vec<Wish> = endpoints
        .into_iter()
        .flatten()
        .map(|(network, endpoint)| wish(network, endpoint))
        .collect();
    match wishes.iter().position(|wish| wish.network == mode) {
        Some(at) => wishes.swap(0, at),
        None => wishes.insert(0, wish(mode, &Value::Null)),
    }
    wishes.retain(|wish| !is_predefined(&wish.network));
    wishes
}

/// One endpoint's wish.
pub fn wish(network: &str, endpoint: &Value) -> Wish {
    let aliases = endpoint["Aliases"].as_array().into_iter().flatten();
    Wish {
        network: network.to_string(),
        aliases: aliases.filter_map(Value::as_str).map(str::to_string).collect(),
        address: endpoint["IPAMConfig"]["IPv4Address"]
            .as_str()
            .unwrap_or("")
            .to_string(),
    }
}

/// Writes the places into a create body: twin networks by what the Engine calls them, fixed addresses, our resolver
/// unless the user chose another.
pub fn place(body: &mut Value, places: &[Place], resolver: &str) {
    for place in places {
        let host = member(body, "HostConfig");
        if host.get("NetworkMode").and_then(Value::as_str) == Some(&place.wish.network) {
            host.insert("NetworkMode".to_string(), Value::String(place.engine_id.clone()));
        }
        let networking = member(body, "NetworkingConfig");
        let endpoints = child(networking, "EndpointsConfig");
        let mut endpoint = endpoints.remove(&place.wish.network).unwrap_or(Value::Null);
        set_address(&mut endpoint, &place.address);
        endpoints.insert(place.name.clone(), endpoint);
    }
    let host = member(body, "HostConfig");
    let chosen = host
        .get("Dns")
        .and_then(Value::as_array)
        .is_some_and(|dns| !dns.is_empty());
    if !places.is_empty() && !chosen {
        host.insert("Dns".to_string(), json!([resolver]));
    }
}

/// Fixes the address of an endpoint.
pub fn set_address(endpoint: &mut Value, address: &str) {
    let endpoint = object(endpoint);
    child(endpoint, "IPAMConfig").insert("IPv4Address".to_string(), Value::String(address.to_string()));
}

/// Takes all endpoints but the one of `NetworkMode` out of a create body: an Engine below API 1.44 takes one.
pub fn split_endpoints(body: &mut Value, mode_names: &[&str]) -> Vec<(String, Value)> {
    let endpoints = child(member(body, "NetworkingConfig"), "EndpointsConfig");
    if endpoints.len() < 2 {
        return Vec::new();
    }
    let keep = endpoints
        .keys()
        .find(|name| mode_names.contains(&name.as_str()))
        .or_else(|| endpoints.keys().next())
        .cloned();
    let (kept, rest): (Vec<_>, Vec<_>) = std::mem::take(endpoints)
        .into_iter()
        .partition(|(name, _)| Some(name) == keep.as_ref());
    endpoints.extend(kept);
    rest
}

/// Replaces binds of Docker's socket by `socket`, so that a tool in the container sees the swarm. True if one was.
pub fn redirect_socket(body: &mut Value, socket: &str) -> bool {
    if body["Labels"][SOCKET_LABEL] == "engine" {
        return false;
    }
    let mut changed = false;
    if let Some(binds) = body
        .pointer_mut("/HostConfig/Binds")
        .and_then(Value::as_array_mut)
    {
        for bind in binds {
            let redirected = bind.as_str().and_then(|text| {
                let (source, rest) = text.split_once(':')?;
                DOCKER_SOCKETS
                    .contains(&source)
                    .then(|| format!("{socket}:{rest}"))
            });
            if let Some(text) = redirected {
                *bind = Value::String(text);
                changed = true;
            }
        }
    }
    if let Some(mounts) = body
        .pointer_mut("/HostConfig/Mounts")
        .and_then(Value::as_array_mut)
    {
        for mount in mounts.iter_mut().filter(|mount| mount["Type"] == "bind") {
            if mount["Source"]
                .as_str()
                .is_some_and(|source| DOCKER_SOCKETS.contains(&source))
            {
                mount["Source"] = Value::String(socket.to_string());
                changed = true;
            }
        }
    }
    changed
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(members) => members,
        _ => unreachable!("it was made an object above"),
    }
}

fn child<'a>(members: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    object(members.entry(key.to_string()).or_insert(Value::Null))
}

fn member<'a>(body: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    child(object(body), key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(network: &str, address: &str) -> Place {
        Place {
            wish: Wish {
                network: network.to_string(),
                ..Wish::default()
            },
            attachment_id: "a".to_string(),
            address: address.to_string(),
            engine_id: format!("engine-{network}"),
            name: network.to_string(),
        }
    }

    #[test]
    fn wishes_are_found() {
        let body = json!({
            "HostConfig": {"NetworkMode": "app"},
            "NetworkingConfig": {"EndpointsConfig": {
                "abc": {"Aliases": ["x"]},
                "app": {"IPAMConfig": {"IPv4Address": "10.0.1.9"}},
            }},
        });
        let found: Vec<_> = wishes(&body)
            .into_iter()
            .map(|w| (w.network, w.aliases, w.address))
            .collect();
        let expected = [
            ("app".to_string(), vec![], "10.0.1.9".to_string()),
            ("abc".to_string(), vec!["x".to_string()], String::new()),
        ];
        assert_eq!(found, expected);
        assert!(wishes(&json!({"HostConfig": {"NetworkMode": "host"}})).is_empty());
        assert!(wishes(&json!({})).is_empty());
    }

    #[test]
    fn places_are_written() {
        let mut body = json!({"HostConfig": {"NetworkMode": "app"}, "NetworkingConfig": null});
        place(&mut body, &[placed("app", "10.0.1.5")], "169.254.1.53");
        let expected = json!({
            "HostConfig": {"NetworkMode": "engine-app", "Dns": ["169.254.1.53"]},
            "NetworkingConfig": {"EndpointsConfig": {"app": {"IPAMConfig": {"IPv4Address": "10.0.1.5"}}}},
        });
        assert_eq!(body, expected);
        let mut body = json!({"HostConfig": {"NetworkMode": "app", "Dns": ["9.9.9.9"]}});
        place(&mut body, &[placed("app", "10.0.1.5")], "169.254.1.53");
        assert_eq!(body["HostConfig"]["Dns"], json!(["9.9.9.9"]));
    }

    #[test]
    fn endpoints_are_split_for_an_old_engine() {
        let mut body = json!({"NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": {}, "c": {}}}});
        let rest: Vec<_> = split_endpoints(&mut body, &["b"])
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(rest, ["a", "c"]);
        assert_eq!(body["NetworkingConfig"]["EndpointsConfig"], json!({"b": {}}));
    }

    #[test]
    fn the_socket_is_redirected() {
        let make = |labels: Value| {
            json!({
                "Labels": labels,
                "HostConfig": {
                    "Binds": ["/var/run/docker.sock:/var/run/docker.sock:ro", "/srv:/srv"],
                    "Mounts": [{"Type": "bind", "Source": "/run/docker.sock", "Target": "/s"}],
                },
            })
        };
        let mut body = make(json!({}));
        assert!(redirect_socket(&mut body, "/run/skep/docker.sock"));
        assert_eq!(
            body["HostConfig"]["Binds"],
            json!(["/run/skep/docker.sock:/var/run/docker.sock:ro", "/srv:/srv"])
        );
        assert_eq!(body["HostConfig"]["Mounts"][0]["Source"], "/run/skep/docker.sock");
        let mut body = make(json!({"skep.docker-socket": "engine"}));
        assert!(!redirect_socket(&mut body, "/run/skep/docker.sock"));
    }
}
