//! Placement constraints: `key==value` and `key!=value` (swarmkit manager/constraint/constraint.go).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::*;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    key: String,
    equal: bool,
    value: String,
}

/// Parses one constraint. The error is Swarm's text.
pub fn parse(text: &str) -> Result<Constraint, String> {
    let (operator, equal) = if text.contains("==") {
        ("==", true)
    } else if text.contains("!=") {
        ("!=", false)
    } else {
        return Err("constraint expected one operator from ==, !=".to_string());
    };
    let (key, value) = text.split_once(operator).unwrap_or((text, ""));
    let (key, value) = (key.trim(), value.trim());
    if !is_key(key) {
        return Err(format!("key '{key}' is invalid"));
    }
    if !is_value(value) {
        return Err(format!("value '{value}' is invalid"));
    }
    Ok(Constraint {
        key: key.to_string(),
        equal,
        value: value.to_string(),
    })
}

/// Parses one constraint whose key names something. Swarm takes any key, and then no node meets it.
pub fn parse_known(text: &str) -> Result<Constraint, String> {
    let constraint = parse(text)?;
    let key = constraint.key.to_ascii_lowercase();
    let named = [
        "node.id",
        "node.hostname",
        "node.ip",
        "node.role",
        "node.platform.os",
        "node.platform.arch",
    ];
    if named.contains(&key.as_str()) || label_value(&constraint.key, &Node::default()).is_some() {
        return Ok(constraint);
    }
    Err(format!(
        "key '{}' is not known: node.id, node.hostname, node.ip, node.role, node.platform.os, node.platform.arch, node.labels.NAME and engine.labels.NAME are",
        constraint.key
    ))
}

/// `^(?i)[a-z_][a-z0-9\-_.]+$`
fn is_key(key: &str) -> bool {
    let mut bytes = key.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && key.len() > 1
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// `^(?i)[a-z0-9:\-_\s\.\*\(\)\?\+\[\]\\\^\$\|\/]+$`
fn is_value(value: &str) -> bool {
    !value.is_empty()
        && value.bytes().all(|b| {
            b.is_ascii_alphanumeric() || b.is_ascii_whitespace() || br":-_.*()?+[]\^$|/".contains(&b)
        })
}

/// Parses all; those that do not parse cannot be stored, so they are met by no node.
pub fn parse_all(texts: &[String]) -> Option<Vec<Constraint>> {
    texts.iter().map(|t| parse(t).ok()).collect()
}

/// Whether the node meets all of them. A label that is missing equals "", an unknown key is met by no node.
pub fn all_met(constraints: &[Constraint], node: &Node) -> bool {
    constraints.iter().all(|c| c.is_met(node))
}

impl Constraint {
    fn is_met(&self, node: &Node) -> bool {
        let description = node.description.as_ref();
        let platform = description.and_then(|d| d.platform.as_ref());
        match self.key.to_ascii_lowercase().as_str() {
            "node.id" => self.compare(&[&node.id]),
            "node.hostname" => self.compare(&[description.map_or("", |d| &d.hostname)]),
            "node.ip" => self.compare_address(&node.address),
            "node.role" => self.compare(&[role_name(node.spec.role())]),
            "node.platform.os" => self.compare(&[platform.map_or("", |p| &p.os)]),
            "node.platform.arch" => {
                let arch = platform.map_or("", |p| p.architecture.as_str());
                self.compare(&[arch, common_arch(arch)])
            }
            _ => match label_value(&self.key, node) {
                Some(value) => self.compare(&[value]),
                None => false,
            },
        }
    }

    fn compare(&self, actual: &[&str]) -> bool {
        actual.iter().any(|a| a.eq_ignore_ascii_case(&self.value)) == self.equal
    }

    fn compare_address(&self, address: &str) -> bool {
        let Ok(address) = address.parse::<IpAddr>() else {
            return false;
        };
        if let Ok(wanted) = self.value.parse::<IpAddr>() {
            return (wanted == address) == self.equal;
        }
        match self.value.parse::<IpNet>() {
            Ok(net) => net.contains(&address) == self.equal,
            Err(_) => false,
        }
    }
}

/// The value of `node.labels.X` or `engine.labels.X`; "" if the node has no such label, `None` for another key.
/// The prefix may be written in any case, the label's name may not.
pub fn label_value<'a>(key: &str, node: &'a Node) -> Option<&'a str> {
    let after = |prefix: &str| -> Option<&str> {
        let (head, name) = (key.get(..prefix.len())?, key.get(prefix.len()..)?);
        (head.eq_ignore_ascii_case(prefix) && !name.is_empty()).then_some(name)
    };
    if let Some(name) = after("node.labels.") {
        let labels = &node.spec.annotations.labels;
        return Some(labels.get(name).map_or("", String::as_str));
    }
    let name = after("engine.labels.")?;
    let labels = node.description.as_ref().map(|d| &d.engine_labels);
    Some(labels.and_then(|l| l.get(name)).map_or("", String::as_str))
}

/// One name for each architecture: the kernel's names become the registry's.
pub fn common_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Worker => "worker",
        Role::Manager => "manager",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let mut node = Node {
            id: "node1".into(),
            address: "192.168.50.7".into(),
            ..Default::default()
        };
        node.spec.annotations.labels.insert("zone".into(), "East".into());
        node.description = Some(NodeDescription {
            hostname: "host-1".into(),
            platform: Some(Platform {
                architecture: "x86_64".into(),
                os: "linux".into(),
            }),
            ..Default::default()
        });
        node
    }

    fn met(text: &str) -> bool {
        all_met(&[parse(text).unwrap()], &node())
    }

    #[test]
    fn grammar_and_texts() {
        assert_eq!(
            parse("zone=a").unwrap_err(),
            "constraint expected one operator from ==, !="
        );
        assert_eq!(parse("a b==c").unwrap_err(), "key 'a b' is invalid");
        assert_eq!(parse("node.id==ä").unwrap_err(), "value 'ä' is invalid");
        assert_eq!(parse("node.id==").unwrap_err(), "value '' is invalid");
        assert!(parse("node.labels.a == x y").is_ok());
    }

    #[test]
    fn matching() {
        assert!(met("node.labels.zone==east"));
        assert!(!met("node.labels.Zone==east"));
        assert!(met("NODE.LABELS.zone!=west"));
        assert!(met("node.labels.none!=x"));
        assert!(!met("engine.labels.none==x"));
        assert!(met("node.hostname==HOST-1"));
        assert!(met("node.platform.arch==amd64") && met("node.platform.arch==x86_64"));
        assert!(!met("node.platform.arch!=amd64"));
        assert!(met("node.ip==192.168.50.0/24") && !met("node.ip!=192.168.50.7"));
        assert!(met("node.role==worker") && !met("node.role==manager"));
        assert!(!met("node.colour!=red"));
    }
}
