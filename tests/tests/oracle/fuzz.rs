//! Random requests from the API's own schema (`schema.json`: the swarm paths of version 1.41), many of them wrong, to
//! both sides. Skep may give no 5xx where Swarm gives none, may not hang, and a request that it rejects may change nothing.
//!
//! `SKEP_FUZZ_SEED` repeats a run, `SKEP_FUZZ_SECONDS` makes it longer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::random::Random;
use super::side::Side;
use super::{Stage, read};

const SECONDS: u64 = 40;
/// Deeper than this, the schema's objects are left out.
const DEPTH: usize = 8;
/// What would end the swarm, or what never ends.
const LEFT_OUT: &[&str] = &[
    "/swarm/leave",
    "/swarm/unlock",
    "/networks/prune",
    "/networks/{id}/connect",
    "/networks/{id}/disconnect",
];
const TEXTS: &[&str] = &[
    "",
    "x",
    "busybox",
    "a b",
    "../..",
    "10.0.0.0/8",
    "-1",
    "node1",
    "true",
    "\u{0}",
    "\u{fffd}ä",
    "node.role==manager",
    "1s",
];

const FILTERS: &[&str] = &[
    r#"{"name":["base"]}"#,
    r#"{"x":["y"]}"#,
    "{",
    "[]",
    r#"{"label":{"a":true}}"#,
    r#"{"desired-state":["x"]}"#,
    r#"{"name":5}"#,
    r#"{"id":[""]}"#,
];

/// A request, the same for both sides but for what is asked of each.
struct Request {
    method: String,
    path: String,
    body: Option<String>,
}

pub fn run(stage: &Stage) -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("SKEP_FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let seconds = number("SKEP_FUZZ_SECONDS").unwrap_or(SECONDS);
    println!("repeat it by SKEP_FUZZ_SEED={seed} SKEP_FUZZ_SECONDS={seconds}");
    let schema: Value = serde_json::from_str(&read("schema.json")?).context("schema.json")?;
    let mut maker = Maker {
        random: Random::new(seed),
        schema: &schema,
    };
    let begin = Instant::now();
    let mut statuses: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut count = 0;
    while begin.elapsed() < Duration::from_secs(seconds) && wrong.len() < 10 {
        if count % 50 == 0 {
            stage.both(base)?;
        }
        count += 1;
        let request = maker.request()?;
        let shown = format!(
            "{} {} {}",
            request.method,
            request.path,
            request.body.as_deref().unwrap_or("")
        );
        let before = state(&stage.skep)?;
        let reply = send(&stage.skep, &request).with_context(|| shown.clone())?;
        let after = state(&stage.skep)?;
        // dockerd 20.10 answers some requests by a panic, which closes the connection.
        let swarm = send(&stage.swarm, &request).map_or(599, |reply| reply.0);
        if reply.0 >= 400 && before != after {
            wrong.push(format!(
                "was rejected with {} and changed the state: {shown}",
                reply.0
            ));
        }
        let unbuilt = reply.0 == 501 && reply.1.contains("not supported by Skep");
        if reply.0 >= 500 && swarm < 500 && !unbuilt {
            wrong.push(format!("{} ({}), Swarm {swarm}: {shown}", reply.0, reply.1));
        }
        if reply.0 != swarm {
            let key = format!(
                "{} {}: Swarm {swarm}, Skep {}",
                request.method,
                maker_path(&request.path),
                reply.0
            );
            let entry = statuses
                .entry(key)
                .or_insert_with(|| (0, format!("{} {shown}", reply.1)));
            entry.0 += 1;
        }
    }
    println!("{count} requests; other statuses than Swarm's:");
    for (key, (times, example)) in &statuses {
        println!(
            "{times:>5} {key}\n        {}",
            example.chars().take(600).collect::<String>()
        );
    }
    stage.both(Side::clean)?;
    if !wrong.is_empty() {
        bail!("seed {seed}:\n{}", wrong.join("\n"));
    }
    Ok(())
}

/// A path without ids and queries.
fn maker_path(path: &str) -> String {
    path.split('?').next().unwrap_or(path).to_string()
}

/// Objects that requests find. Those that are there already are refused, which is as well.
fn base(side: &Side) -> Result<()> {
    let objects = [
        (
            "services",
            json!({"Name": "base", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}, "Mode": {"Replicated": {"Replicas": 0}}}),
        ),
        (
            "networks",
            json!({"Name": "base", "Driver": "overlay", "CheckDuplicate": true}),
        ),
        ("secrets", json!({"Name": "base", "Data": "eA=="})),
        ("configs", json!({"Name": "base", "Data": "eA=="})),
    ];
    for (kind, body) in objects {
        side.request("POST", &format!("/{kind}/create"), Some(&body.to_string()))?;
    }
    Ok(())
}

/// Sends the request; what it made is removed again.
fn send(side: &Side, request: &Request) -> Result<(u16, String)> {
    let reply = side.request(&request.method, &request.path, request.body.as_deref())?;
    if reply.status == 201 {
        let made: Value = serde_json::from_str(&reply.body).unwrap_or_default();
        let id = made["ID"].as_str().or(made["Id"].as_str()).unwrap_or("");
        let kind = request.path.split('/').nth(1).unwrap_or("");
        side.request("DELETE", &format!("/{kind}/{id}"), None)?;
    }
    Ok((reply.status, reply.body))
}

/// What a rejected request may not change: what is there, and which version of it.
fn state(side: &Side) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for path in [
        "/services",
        "/secrets",
        "/configs",
        "/networks?filters={\"scope\":[\"swarm\"]}",
        "/nodes",
        "/swarm",
    ] {
        let reply = side.request("GET", path, None)?;
        let value: Value =
            serde_json::from_str(&reply.body).with_context(|| format!("{path}: {}", reply.body))?;
        let list = value.as_array().cloned().unwrap_or_else(|| vec![value]);
        let mut lines: Vec<String> = list
            .iter()
            .map(|object| format!("{path} {} {} {}", object["ID"], object["Id"], object["Spec"]))
            .collect();
        lines.sort();
        all.extend(lines);
    }
    Ok(all)
}

struct Maker<'a> {
    random: Random,
    schema: &'a Value,
}

impl Maker<'_> {
    fn request(&mut self) -> Result<Request> {
        let paths = self.schema["paths"].as_object().context("no paths")?;
        let paths: Vec<(&String, &Value)> = paths
            .iter()
            .filter(|(path, _)| !LEFT_OUT.contains(&path.as_str()))
            .collect();
        let (path, methods) = *self.random.choose(&paths);
        let methods: Vec<(&String, &Value)> = methods.as_object().context("no methods")?.iter().collect();
        let (method, operation) = *self.random.choose(&methods);
        let mut path = path.clone();
        let mut query = Vec::new();
        let mut body = None;
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap_or("");
            match parameter["in"].as_str() {
                Some("path") => path = path.replace(&format!("{{{name}}}"), &self.reference(&path)),
                Some("query") if name != "follow" && self.random.chance(60) => {
                    query.push(format!("{name}={}", self.query(name)));
                }
                Some("body") => body = self.body(&parameter["schema"]),
                _ => {}
            }
        }
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        Ok(Request {
            method: method.to_uppercase(),
            path,
            body,
        })
    }

    /// What stands for `{id}`. Nodes are only asked for, never changed: a drained one is none any more.
    fn reference(&mut self, path: &str) -> String {
        let there = if path.starts_with("/nodes") {
            "node1"
        } else {
            "base"
        };
        let one_in = [
            there,
            there,
            "nothing",
            "%00",
            "a%20b",
            "0123456789abcdefghijklmno",
        ];
        (*self.random.choose(&one_in)).to_string()
    }

    fn query(&mut self, name: &str) -> &'static str {
        let choices: &[&'static str] = match name {
            // Old versions only, so that node and swarm keep their specs.
            "version" => &["1", "0", "x", "-1", "99999999999999999999", ""],
            "filters" => FILTERS,
            _ => &["1", "0", "true", "x", "", "-1", "previous", "all", "swarm"],
        };
        choices[self.random.below(choices.len())]
    }

    fn body(&mut self, schema: &Value) -> Option<String> {
        match self.random.below(20) {
            0 => None,
            1 => Some("{".to_string()),
            2 => Some((*self.random.choose(&["null", "[]", "5", "\"x\"", "{}", "true"])).to_string()),
            _ => {
                let value = self.value(schema, 0);
                Some(value.to_string())
            }
        }
    }

    fn value(&mut self, schema: &Value, depth: usize) -> Value {
        if self.random.chance(3) {
            return self.odd();
        }
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            let found = &self.schema["definitions"][name];
            return self.value(found, depth);
        }
        if let Some(parts) = schema["allOf"].as_array() {
            let mut all = Map::new();
            for part in parts {
                if let Value::Object(members) = self.value(part, depth) {
                    all.extend(members);
                }
            }
            return Value::Object(all);
        }
        if let Some(choices) = schema["enum"].as_array().filter(|list| !list.is_empty()) {
            return self.random.choose(choices).clone();
        }
        match schema["type"].as_str() {
            Some("string") => self.text(),
            Some("integer") => json!(*self.random.choose(&[
                0_i64,
                1,
                2,
                80,
                8080,
                -1,
                65_536,
                4_194_304,
                1_000_000_000,
                i64::MAX
            ])),
            Some("number") => json!(*self.random.choose(&[0.0, 0.5, 1.0, -1.0, 1e300])),
            Some("boolean") => json!(self.random.chance(50)),
            Some("array") if depth < DEPTH => {
                let count = self.random.below(3);
                (0..count)
                    .map(|_| self.value(&schema["items"], depth + 1))
                    .collect()
            }
            Some("array") => json!([]),
            _ => self.object(schema, depth),
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let mut members = Map::new();
        let chance = if depth < 3 { 60 } else { 25 };
        if depth < DEPTH {
            for (name, member) in schema["properties"].as_object().into_iter().flatten() {
                if name == "Name" && depth == 0 {
                    members.insert(name.clone(), json!(format!("f{}", self.random.below(100_000))));
                } else if name == "Image" {
                    members.insert(name.clone(), json!("busybox"));
                } else if self.random.chance(chance) {
                    members.insert(name.clone(), self.value(member, depth + 1));
                }
            }
            if schema["additionalProperties"].is_object() && self.random.chance(50) {
                members.insert(
                    "key".to_string(),
                    self.value(&schema["additionalProperties"], depth + 1),
                );
            }
        }
        if self.random.chance(3) {
            members.insert("Unknown".to_string(), self.odd());
        }
        Value::Object(members)
    }

    fn text(&mut self) -> Value {
        if self.random.chance(2) {
            return json!("y".repeat(70));
        }
        json!(*self.random.choose(TEXTS))
    }

    /// A value of any type, most likely the wrong one.
    fn odd(&mut self) -> Value {
        self.random
            .choose(&[
                json!(null),
                json!(5),
                json!("x"),
                json!([]),
                json!({}),
                json!(true),
                json!([null]),
                json!({"x": [1]}),
            ])
            .clone()
    }
}
