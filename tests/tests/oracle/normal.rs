//! What cannot be the same on two clusters is replaced by a word for what it is: ids, times, addresses of overlay
//! networks, chosen ports, tokens, certificates, version indexes.

use std::collections::BTreeMap;

use serde_json::Value;

/// Members whose value says nothing: it is a number or text of the one cluster.
const OPAQUE: &[&str] = &[
    "Index",
    "PID",
    "TrustRoot",
    "CertIssuerSubject",
    "CertIssuerPublicKey",
    "GlobalAddress",
    "SandboxKey",
    "MacAddress",
    "com.docker.network.driver.overlay.vxlanid_list",
];
/// Ports that Swarm chooses (swarmkit manager/allocator/cnmallocator/portallocator.go).
const CHOSEN_PORTS: std::ops::RangeInclusive<u64> = 30_000..=32_767;

/// Every leaf of an answer by its path.
pub type Leaves = BTreeMap<String, String>;

/// The leaves of a text that may be JSON.
pub fn leaves(path: &str, text: &str, into: &mut Leaves) {
    let text = text.trim();
    let json = text
        .starts_with(['[', '{'])
        .then(|| serde_json::from_str(text).ok());
    match json.flatten() {
        Some(value) => flatten(path, value, into),
        None => {
            into.insert(path.to_string(), normal(text));
        }
    }
}

fn flatten(path: &str, value: Value, into: &mut Leaves) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (key, member) in members {
                let path = format!("{path}.{}", normal(&key));
                if OPAQUE.contains(&key.as_str()) && !member.is_null() {
                    into.insert(path, "<opaque>".to_string());
                } else {
                    flatten(&path, member, into);
                }
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            for (number, element) in sorted(elements).into_iter().enumerate() {
                flatten(&format!("{path}[{number}]"), element, into);
            }
        }
        Value::Number(number) if number.as_u64().is_some_and(|port| CHOSEN_PORTS.contains(&port)) => {
            into.insert(path.to_string(), "<port>".to_string());
        }
        // 0.0 and 0 are one number, which Go writes shorter.
        Value::Number(number) if number.as_f64() == Some(0.0) => {
            into.insert(path.to_string(), "0".to_string());
        }
        Value::String(text) => {
            into.insert(path.to_string(), format!("{:?}", normal(&text)));
        }
        other => {
            into.insert(path.to_string(), other.to_string());
        }
    }
}

/// Objects of a list come in no order; elements that are no objects keep theirs.
fn sorted(mut elements: Vec<Value>) -> Vec<Value> {
    if elements.iter().all(Value::is_object) {
        elements.sort_by_key(|element| {
            let name = element["Spec"]["Name"].as_str().or(element["Name"].as_str());
            (name.map(ToString::to_string), normal(&element.to_string()))
        });
    }
    elements
}

/// A text without what is of the one cluster.
pub fn normal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if !first.is_ascii_alphanumeric() {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (word, replaced) = token(rest);
        out.push_str(&replaced);
        rest = &rest[word..];
    }
    out
}

/// The token that `text` begins with: its length, and what stands for it.
fn token(text: &str) -> (usize, String) {
    let length = |of: fn(char) -> bool| text.find(|c| !of(c)).unwrap_or(text.len());
    let word = &text[..length(|c| c.is_ascii_alphanumeric())];
    let wide = &text[..length(|c| c.is_ascii_alphanumeric() || "-:.+".contains(c))];
    if word == "SWMTKN" || word == "SWMKEY" {
        return (wide.len(), "<token>".to_string());
    }
    if is_time(wide) {
        let zero = wide.starts_with("0001-01-01T00:00:00Z");
        return (wide.len(), if zero { "<no time>" } else { "<time>" }.to_string());
    }
    let dotted = &text[..length(|c| c.is_ascii_digit() || c == '.')];
    if dotted.starts_with("10.") && dotted.trim_end_matches('.').split('.').count() == 4 {
        let dotted = dotted.trim_end_matches('.');
        return (dotted.len(), "<address>".to_string());
    }
    (word.len(), replaced(word).to_string())
}

fn is_time(wide: &str) -> bool {
    let shape: String = wide
        .chars()
        .take(17)
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    shape == "0000-00-00T00:00:"
}

fn replaced(word: &str) -> &str {
    let hex = word.chars().all(|c| c.is_ascii_hexdigit());
    let small = word.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase());
    let digits = word.chars().filter(char::is_ascii_digit).count();
    match word.len() {
        25 if small && digits > 0 => "<id>",
        64 if hex => "<hex>",
        12 if small && digits > 0 && digits < 12 => "<short id>",
        5 if word.parse().is_ok_and(|port| CHOSEN_PORTS.contains(&port)) => "<port>",
        _ => word,
    }
}
