//! Measurements as a table for people and as JSON.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::figures::{Figure, Goal};
use crate::bench::statistics::summarize;

/// One figure in one round.
pub struct Row {
    pub figure: &'static str,
    pub swarm: Option<f64>,
    pub skep: Option<f64>,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        let (swarm, skep) = self.swarm.zip(self.skep)?;
        (swarm > 0.0).then_some(skep / swarm)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<36} swarm {:>9}  skep {:>9}",
            self.figure,
            cell(self.swarm),
            cell(self.skep)
        )
    }
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_string(), |value| format!("{value:.3}"))
}

fn of(rows: &[Row], figure: &str, value: fn(&Row) -> Option<f64>) -> Vec<f64> {
    let rows = rows.iter().filter(|row| row.figure == figure);
    rows.filter_map(value).collect()
}

fn median(values: &[f64]) -> Option<f64> {
    summarize(values).map(|summary| summary.p50)
}

/// Whether the goal is met, if there is one.
fn verdict(goal: Goal, ratio: Option<f64>, skep: Option<f64>) -> Option<bool> {
    match goal {
        Goal::Ratio(most) => ratio.map(|ratio| ratio <= most),
        Goal::AtMost(most) => skep.map(|skep| skep <= most),
        Goal::None => None,
    }
}

fn goal(goal: Goal) -> String {
    match goal {
        Goal::Ratio(most) => format!("{most}x"),
        Goal::AtMost(most) => format!("{most}"),
        Goal::None => "-".to_string(),
    }
}

pub fn table(figures: &[&Figure], rows: &[Row]) -> String {
    let mut lines = vec![format!(
        "{:<36} {:>6} {:>10} {:>10}  {:<24} {:>6}  met",
        "", "rounds", "swarm", "skep", "ratio", "goal"
    )];
    for figure in figures {
        let (swarm, skep) = (
            of(rows, figure.name, |row| row.swarm),
            of(rows, figure.name, |row| row.skep),
        );
        let mut ratios = of(rows, figure.name, Row::ratio);
        ratios.sort_by(f64::total_cmp);
        let spread = ratios.first().zip(ratios.last());
        let ratio = median(&ratios).zip(spread).map_or_else(
            || "-".to_string(),
            |(middle, (least, most))| format!("{middle:.2} ({least:.2} to {most:.2})"),
        );
        let met = match verdict(figure.goal, median(&ratios), median(&skep)) {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        lines.push(format!(
            "{:<36} {:>6} {:>10} {:>10}  {ratio:<24} {:>6}  {met}",
            figure.name,
            skep.len(),
            cell(median(&swarm)),
            cell(median(&skep)),
            goal(figure.goal),
        ));
    }
    lines.join("\n")
}

/// Writes all rows and their medians to target/bench/control.json.
pub fn write(figures: &[&Figure], rows: &[Row]) -> Result<PathBuf> {
    let directory = skep_tests::target_dir().join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let path = directory.join("control.json");
    let all: Vec<Value> = figures.iter().map(|figure| json(figure, rows)).collect();
    fs::write(&path, serde_json::to_vec_pretty(&all)?)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn json(figure: &Figure, rows: &[Row]) -> Value {
    let (swarm, skep) = (
        of(rows, figure.name, |row| row.swarm),
        of(rows, figure.name, |row| row.skep),
    );
    let ratios = of(rows, figure.name, Row::ratio);
    json!({
        "figure": figure.name,
        "goal": goal(figure.goal),
        "met": verdict(figure.goal, median(&ratios), median(&skep)),
        "median": {"swarm": median(&swarm), "skep": median(&skep), "ratio": median(&ratios)},
        "swarm": swarm,
        "skep": skep,
        "ratios": ratios,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_held_against_what_they_name() {
        assert_eq!(verdict(Goal::Ratio(0.9), Some(0.9), Some(100.0)), Some(true));
        assert_eq!(verdict(Goal::Ratio(0.9), Some(0.91), Some(0.0)), Some(false));
        assert_eq!(verdict(Goal::Ratio(0.9), None, Some(0.0)), None);
        assert_eq!(verdict(Goal::AtMost(0.0), None, Some(0.0)), Some(true));
        assert_eq!(verdict(Goal::AtMost(5.0), Some(0.1), Some(5.1)), Some(false));
        assert_eq!(verdict(Goal::None, Some(1.0), Some(1.0)), None);
    }

    #[test]
    fn ratios_are_of_pairs() {
        let row = |swarm, skep| Row {
            figure: "a",
            swarm,
            skep,
        };
        assert_eq!(row(Some(2.0), Some(1.0)).ratio(), Some(0.5));
        assert_eq!(row(Some(0.0), Some(1.0)).ratio(), None);
        assert_eq!(row(None, Some(1.0)).ratio(), None);
    }
}
