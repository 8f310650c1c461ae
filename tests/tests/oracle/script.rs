//! Scripts: one step a line, `LABEL: KIND ...`; empty lines and lines that begin with `#` say nothing.
//!
//! - `cli ARGUMENTS`: `docker ARGUMENTS`, quoted as in a shell; exit code, output and errors are compared;
//! - `api METHOD PATH [BODY]`: a request; a path that begins with `/v` is sent as it is, others at version 1.41;
//! - `wait TEXT == ARGUMENTS`: until `docker ARGUMENTS` prints TEXT (lines joined by blanks);
//! - `let NAME = ARGUMENTS`: `${NAME}` is from now on what `docker ARGUMENTS` printed, on each side its own.

use anyhow::{Context, Result, bail, ensure};

#[derive(Clone, Debug)]
pub struct Step {
    /// `script/label`, by which the list of differences names it.
    pub id: String,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    Cli(String),
    Api {
        method: String,
        path: String,
        body: Option<String>,
    },
    Wait {
        text: String,
        arguments: String,
    },
    Let {
        name: String,
        arguments: String,
    },
}

/// Reads a script; labels must be unique in it.
pub fn parse(name: &str, text: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let step = step(name, line).with_context(|| format!("{name}, line {}: {line}", number + 1))?;
        ensure!(
            steps.iter().all(|earlier| earlier.id != step.id),
            "{} stands in it twice",
            step.id
        );
        steps.push(step);
    }
    Ok(steps)
}

fn step(script: &str, line: &str) -> Result<Step> {
    let (label, rest) = line.split_once(": ").context("no label")?;
    let (kind, rest) = rest.split_once(' ').context("no action")?;
    let rest = rest.trim();
    let action = match kind {
        "cli" => Action::Cli(rest.to_string()),
        "api" => {
            let mut words = rest.splitn(3, ' ');
            Action::Api {
                method: words.next().context("no method")?.to_string(),
                path: words.next().context("no path")?.to_string(),
                body: words.next().map(ToString::to_string),
            }
        }
        "wait" => {
            let (text, arguments) = rest.split_once("==").context("no ==")?;
            Action::Wait {
                text: text.trim().to_string(),
                arguments: arguments.trim().to_string(),
            }
        }
        "let" => {
            let (name, arguments) = rest.split_once('=').context("no =")?;
            Action::Let {
                name: name.trim().to_string(),
                arguments: arguments.trim().to_string(),
            }
        }
        other => bail!("what is {other:?}?"),
    };
    Ok(Step {
        id: format!("{script}/{label}"),
        action,
    })
}

/// Splits a command line: blanks part words, single and double quotes hold them together.
pub fn words(line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in line.chars() {
        match (quote, character) {
            (Some(end), c) if c == end => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    ensure!(quote.is_none(), "a quote is open: {line}");
    words.extend(word);
    Ok(words)
}
