//! Answers of the agent as tables.

use comfy_table::{Table, presets};
use serde_json::Value;

pub fn status(answer: &Value) -> String {
    let swarm = &answer["swarm"];
    let mut facts = table(&[]);
    facts.add_row(["version", &text(&answer["version"])]);
    let engine = if answer["engine"]["error"].is_null() {
        &answer["engine"]["version"]
    } else {
        &answer["engine"]["error"]
    };
    facts.add_row(["engine", &text(engine)]);
    facts.add_row(["swarm", &text(&swarm["state"])]);
    let rows: [(&str, &Value); 10] = [
        ("error", &swarm["error"]),
        ("role", &swarm["role"]),
        ("node", &swarm["node_id"]),
        ("address", &swarm["address"]),
        ("leader", &swarm["leader"]),
        ("session with", &swarm["session"]["manager"]),
        ("session error", &swarm["session"]["error"]),
        ("assignments", &swarm["assignments"]["index"]),
        ("tables", &swarm["network"]["applied"]),
        ("network error", &swarm["network"]["error"]),
    ];
    for (name, value) in rows {
        if !text(value).is_empty() {
            facts.add_row([name, &text(value)]);
        }
    }
    for problem in list(&swarm["network"]["problems"]) {
        facts.add_row(["problem", &text(problem)]);
    }
    let mut parts = vec![facts.to_string()];
    parts.extend(rows_of(
        &swarm["nodes"],
        &["ID", "HOSTNAME", "ADDRESS", "INDEX", "READY"],
        &["id", "hostname", "address", "index", "ready"],
    ));
    parts.extend(rows_of(
        &swarm["tasks"],
        &["ID", "NAME", "DESIRED", "STATE", "ERROR"],
        &["id", "name", "desired", "state", "error"],
    ));
    parts.join("\n\n")
}

pub fn drops(answer: &Value) -> String {
    if let Some(error) = answer["error"].as_str() {
        return error.to_string();
    }
    let rows = rows_of(&answer["drops"], &["REASON", "PACKETS"], &["reason", "packets"]);
    rows.unwrap_or_else(|| "no packet was dropped".to_string())
}

pub fn flows(answer: &Value) -> String {
    let rows = rows_of(
        &answer["tables"],
        &["TABLE", "USED", "LIMIT", "BYTES"],
        &["table", "used", "limit", "bytes"],
    );
    rows.unwrap_or_else(|| text(&answer["error"]))
}

/// Who holds which address.
pub fn ingress(addresses: &Value) -> String {
    let mut shown = table(&["ADDRESS", "HOLDER", "SINCE", "REASON", "PREVIOUS", "OWNERS"]);
    for row in list(addresses) {
        let holder = some(&row["holder"], "nobody");
        let previous = some(&row["previous"], "-");
        let fact = |key: &str| text(&row[key]);
        shown.add_row([
            fact("address"),
            holder,
            fact("since"),
            fact("reason"),
            previous,
            joined(&row["owners"], "nobody"),
        ]);
    }
    or_none(addresses, &shown)
}

/// What was asked for, and who may hold what.
pub fn ingress_addresses(addresses: &Value) -> String {
    let mut shown = table(&["ADDRESS", "INTERFACE", "NODES", "SERVICES", "OWNERS"]);
    for row in list(addresses) {
        shown.add_row([
            text(&row["address"]),
            some(&row["interface"], "-"),
            joined(&row["constraints"], "all"),
            joined(&row["services"], "all"),
            joined(&row["owners"], "nobody"),
        ]);
    }
    or_none(addresses, &shown)
}

fn or_none(addresses: &Value, shown: &Table) -> String {
    match list(addresses) {
        [] => "no ingress address: add one with 'skep ingress address add ADDRESS/PREFIX'".to_string(),
        _ => shown.to_string(),
    }
}

fn some(value: &Value, none: &str) -> String {
    Some(text(value))
        .filter(|text| !text.is_empty())
        .unwrap_or(none.to_string())
}

fn joined(values: &Value, none: &str) -> String {
    let texts: Vec<String> = list(values).iter().map(text).collect();
    some(&Value::String(texts.join(", ")), none)
}

fn rows_of(rows: &Value, header: &[&str], keys: &[&str]) -> Option<String> {
    let rows = list(rows);
    if rows.is_empty() {
        return None;
    }
    let mut table = table(header);
    for row in rows {
        table.add_row(keys.iter().map(|key| text(&row[*key])));
    }
    Some(table.to_string())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_there_is_shown_and_nothing_else() {
        let answer = json!({
            "version": "0.1.0",
            "engine": {"version": "20.10.24"},
            "swarm": {"state": "active", "role": "manager", "tasks": [
                {"id": "t1", "name": "web.1", "desired": "running", "state": "running", "error": ""},
            ]},
        });
        let shown = status(&answer);
        assert!(
            shown.contains("web.1") && shown.contains("manager") && shown.contains("20.10.24"),
            "{shown}"
        );
        assert!(
            !shown.contains("problem") && !shown.contains("HOSTNAME"),
            "{shown}"
        );
    }

    #[test]
    fn drops_are_a_table_or_a_sentence() {
        assert_eq!(drops(&json!({"drops": []})), "no packet was dropped");
        assert!(drops(&json!({"drops": [{"reason": "Spoofed", "packets": 3}]})).contains("Spoofed"));
        assert_eq!(drops(&json!({"drops": [], "error": "not up"})), "not up");
    }

    #[test]
    fn flow_tables_show_their_limits() {
        let answer =
            json!({"tables": [{"table": "established", "used": 7, "limit": 131_072, "bytes": 22_020_096}]});
        let shown = flows(&answer);
        assert!(
            shown.contains("established") && shown.contains("131072"),
            "{shown}"
        );
        assert_eq!(flows(&json!({"tables": [], "error": "not up"})), "not up");
    }

    #[test]
    fn ingress_addresses_are_told_with_who_holds_them() {
        let held = json!([
            {"address": "192.0.2.9", "holder": "n2", "since": "2026-11-24T13:20:07Z", "reason": "lease of n1 ended",
             "previous": "n1", "owners": ["n2", "n3"]},
            {"address": "192.0.2.10", "holder": null, "since": null, "reason": null, "owners": []},
        ]);
        let lines: Vec<String> = ingress(&held).lines().map(words).collect();
        assert_eq!(lines[0], "ADDRESS HOLDER SINCE REASON PREVIOUS OWNERS");
        assert_eq!(
            lines[1],
            "192.0.2.9 n2 2026-11-24T13:20:07Z lease of n1 ended n1 n2, n3"
        );
        assert_eq!(lines[2], "192.0.2.10 nobody - nobody");
        let asked = json!([{"address": "192.0.2.9/24", "interface": "eth1", "constraints": ["node.role==worker"],
            "services": [], "owners": ["n1"]}]);
        let lines: Vec<String> = ingress_addresses(&asked).lines().map(words).collect();
        assert_eq!(lines[1], "192.0.2.9/24 eth1 node.role==worker all n1");
        assert!(ingress(&json!([])).starts_with("no ingress address"));
    }

    fn words(line: &str) -> String {
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}
