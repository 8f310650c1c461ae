//! Rows of measurements as a table for people and as JSON.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skep_tests::Session;

use super::keepalived;
use super::measure::Seen;
use super::swarm;
use crate::bench::statistics::{Summary, summarize};

/// Before this much time after a kill an address has moved, if all is well; who moves it later leaves a gap that began before.
const MOVED_MS: u128 = 500;

/// One kill of anybody, in the figures that are told.
#[derive(Clone, Debug)]
pub struct Row {
    /// Who and which variant: rows of one name are summed up together.
    pub name: String,
    /// The machine's load average over a minute.
    pub load: f64,
    pub detection_ms: Option<f64>,
    pub taken_over_ms: Option<f64>,
    /// How long the address did not answer because of the kill: the longest gap over the time in which the address moves.
    pub gap_ms: f64,
    /// The longest gap at another time: what the machine itself costs.
    pub hiccup_ms: f64,
    /// The longest pause of a session that speaks all the time and lives.
    pub stall_ms: Option<f64>,
    pub sessions: usize,
    pub lost: Vec<String>,
    pub ended: Vec<String>,
    pub connects: usize,
    pub failed_connects: usize,
    pub slowest_connect_ms: f64,
    pub wrong_marks: usize,
}

impl Row {
    pub fn of_skep(kill: &swarm::Kill) -> Self {
        Self {
            detection_ms: kill.detection_ms,
            taken_over_ms: kill.taken_over_ms,
            lost: kill.lost.iter().map(told).collect(),
            ended: kill.ended.iter().map(told).collect(),
            wrong_marks: kill.wrong_marks,
            ..Self::of_seen(
                format!("skep {}", kill.variant.name()),
                &kill.seen,
                kill.killed_ms,
            )
        }
    }

    /// keepalived moves an address and knows of no connection: all that failed are lost.
    pub fn of_keepalived(kill: &keepalived::Kill) -> Self {
        let name = format!("keepalived {} s", kill.advert);
        let failed = kill.seen.sessions.iter().filter(|session| !session.ok);
        Self {
            lost: failed.map(told).collect(),
            ..Self::of_seen(name, &kill.seen, kill.killed_ms)
        }
    }

    fn of_seen(name: String, seen: &Seen, killed_ms: u128) -> Self {
        let (gap, hiccup) = seen.answered.longest_over(killed_ms, killed_ms + MOVED_MS);
        Self {
            name,
            load: seen.load,
            detection_ms: None,
            taken_over_ms: None,
            gap_ms: gap as f64,
            hiccup_ms: hiccup as f64,
            stall_ms: seen.longest_stall_ms().map(|ms| ms as f64),
            sessions: seen.sessions.len(),
            lost: Vec::new(),
            ended: Vec::new(),
            connects: seen.connected.connects,
            failed_connects: seen.connected.failed,
            slowest_connect_ms: seen.connected.slowest_ms,
            wrong_marks: 0,
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "load": self.load,
            "detection_ms": self.detection_ms,
            "taken_over_ms": self.taken_over_ms,
            "gap_ms": self.gap_ms,
            "hiccup_ms": self.hiccup_ms,
            "stall_ms": self.stall_ms,
            "sessions": self.sessions,
            "lost": self.lost,
            "ended_with_their_task": self.ended,
            "connects": self.connects,
            "failed_connects": self.failed_connects,
            "slowest_connect_ms": self.slowest_connect_ms,
            "wrong_marks": self.wrong_marks,
        })
    }
}

fn told(session: &Session) -> String {
    format!(
        "{}: {}, served by {}",
        session.kind.name(),
        session.error,
        session.task
    )
}

/// Names in the order in which they first came.
fn names(rows: &[Row]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    names
}

/// One line per name; times are p50 / p99 / max in ms.
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![format!(
        "{:<22} {:>5} {:>5}  {:>18}  {:>18}  {:>18}  {:>18}  {:>18}  {:>13}  {:>5}  {:>15}  {:>11}",
        "",
        "kills",
        "load",
        "marked ms",
        "taken over ms",
        "gap ms",
        "other gaps ms",
        "longest stall ms",
        "lost sessions",
        "ended",
        "failed connects",
        "wrong marks"
    )];
    for name in names(rows) {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.name == name).collect();
        let load = rows.iter().map(|row| row.load).sum::<f64>() / rows.len() as f64;
        let detections: Vec<f64> = rows.iter().filter_map(|row| row.detection_ms).collect();
        let taken: Vec<f64> = rows.iter().filter_map(|row| row.taken_over_ms).collect();
        let gaps: Vec<f64> = rows.iter().map(|row| row.gap_ms).collect();
        let hiccups: Vec<f64> = rows.iter().map(|row| row.hiccup_ms).collect();
        let stalls: Vec<f64> = rows.iter().filter_map(|row| row.stall_ms).collect();
        let lost: usize = rows.iter().map(|row| row.lost.len()).sum();
        let sessions: usize = rows.iter().map(|row| row.sessions).sum();
        let failed: usize = rows.iter().map(|row| row.failed_connects).sum();
        let connects: usize = rows.iter().map(|row| row.connects).sum();
        lines.push(format!(
            "{name:<22} {:>5} {load:>5.1}  {:>18}  {:>18}  {:>18}  {:>18}  {:>18}  {:>13}  {:>5}  {:>15}  {:>11}",
            rows.len(),
            cell(summarize(&detections)),
            cell(summarize(&taken)),
            cell(summarize(&gaps)),
            cell(summarize(&hiccups)),
            cell(summarize(&stalls)),
            format!("{lost} of {sessions}"),
            rows.iter().map(|row| row.ended.len()).sum::<usize>(),
            format!("{failed} of {connects}"),
            rows.iter().map(|row| row.wrong_marks).sum::<usize>(),
        ));
    }
    lines.join("\n")
}

fn cell(summary: Option<Summary>) -> String {
    summary.map_or_else(
        || "-".to_string(),
        |all| format!("{:.0} / {:.0} / {:.0}", all.p50, all.p99, all.max),
    )
}

/// Writes all rows and their summaries to target/bench/ingress.json.
pub fn write(rows: &[Row], stress: &Value) -> Result<PathBuf> {
    let directory = skep_tests::target_dir().join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let path = directory.join("ingress.json");
    let summaries: Vec<Value> = names(rows).into_iter().map(|name| summary(rows, name)).collect();
    let all = json!({
        "summaries": summaries,
        "stress": stress,
        "kills": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    fs::write(&path, serde_json::to_vec_pretty(&all)?)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn summary(rows: &[Row], name: &str) -> Value {
    let of = |figure: fn(&Row) -> Option<f64>| {
        let values: Vec<f64> = rows
            .iter()
            .filter(|row| row.name == name)
            .filter_map(figure)
            .collect();
        summarize(&values)
            .map(|all| json!({"count": all.count, "p50": all.p50, "p99": all.p99, "max": all.max}))
    };
    json!({
        "name": name,
        "detection_ms": of(|row| row.detection_ms),
        "taken_over_ms": of(|row| row.taken_over_ms),
        "gap_ms": of(|row| Some(row.gap_ms)),
        "hiccup_ms": of(|row| Some(row.hiccup_ms)),
        "stall_ms": of(|row| row.stall_ms),
        "lost": of(|row| Some(row.lost.len() as f64)),
        "failed_connects": of(|row| Some(row.failed_connects as f64)),
        "load": of(|row| Some(row.load)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, gap_ms: f64, lost: usize) -> Row {
        Row {
            name: name.to_string(),
            load: 1.0,
            detection_ms: None,
            taken_over_ms: None,
            gap_ms,
            hiccup_ms: 0.0,
            stall_ms: None,
            sessions: 10,
            lost: vec!["echo: reset".to_string(); lost],
            ended: Vec::new(),
            connects: 100,
            failed_connects: 0,
            slowest_connect_ms: 1.0,
            wrong_marks: 0,
        }
    }

    #[test]
    fn rows_of_a_name_are_one_line() {
        let rows = [row("a", 300.0, 0), row("b", 3000.0, 5), row("a", 500.0, 1)];
        let table = table(&rows);
        assert_eq!(table.lines().count(), 3);
        assert!(table.contains("300 / 500 / 500"), "{table}");
        assert!(table.contains("1 of 20") && table.contains("5 of 10"), "{table}");
        assert_eq!(summary(&rows, "a")["gap_ms"]["count"], 2);
        assert_eq!(summary(&rows, "a")["detection_ms"], Value::Null);
    }
}
