//! Says what is being done, why, and how long it took.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use skep_tests::command;

/// Longer than any single step should ever take, package downloads included.
const DEADLINE: Duration = Duration::from_secs(3600);
/// Without a terminal a step that takes long says so this often.
const HEARTBEAT: Duration = Duration::from_secs(20);
const TAIL_LINES: usize = 40;

/// Does `work` and prints its name and time.
pub fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {what}");
    let begin = Instant::now();
    let result = work();
    let seconds = begin.elapsed().as_secs_f64();
    match &result {
        Ok(_) => println!("    {what}: {seconds:.1} s"),
        Err(_) => println!("    {what}: FAILED after {seconds:.1} s"),
    }
    result
}

/// Runs a command whose output is only of interest if it fails: on a terminal a spinner shows its
/// last line, elsewhere a line appears now and then.
pub fn quiet(what: &str, command: &mut Command) -> Result<()> {
    let line = command::describe(command);
    println!("    {line}");
    let begin = Instant::now();
    let bar = std::io::stderr().is_terminal().then(spinner).transpose()?;
    let said = Mutex::new(Instant::now());
    let tail = Mutex::new(VecDeque::new());
    let output = command::run_showing(command, DEADLINE, &|text| {
        if let Ok(mut tail) = tail.lock() {
            tail.push_back(text.to_string());
            if tail.len() > TAIL_LINES {
                tail.pop_front();
            }
        }
        if let Some(bar) = &bar {
            bar.set_message(text.trim().to_string());
        } else if let Ok(mut said) = said.lock()
            && said.elapsed() > HEARTBEAT
        {
            *said = Instant::now();
            println!("    ... {:.0} s: {}", begin.elapsed().as_secs_f64(), text.trim());
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let output = output.with_context(|| what.to_string())?;
    if !output.success() {
        let tail = tail.into_inner().unwrap_or_default();
        let tail: Vec<String> = tail.into_iter().collect();
        bail!(
            "{what}: `{line}` exited with {}\n{}",
            output.code,
            tail.join("\n")
        );
    }
    println!("    done in {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

fn spinner() -> Result<ProgressBar> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template(
        "    {spinner} {elapsed} {wide_msg}",
    )?);
    bar.enable_steady_tick(Duration::from_millis(120));
    Ok(bar)
}

/// Runs a command that talks to the user itself.
pub fn loud(what: &str, command: &mut Command) -> Result<()> {
    println!("    {}", command::describe(command));
    let status = command.status().with_context(|| format!("{what}: start"))?;
    if !status.success() {
        bail!("{what}: {status}");
    }
    Ok(())
}

/// cargo in the workspace, the same cargo that runs this program.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(skep_tests::workspace()).args(arguments);
    command
}
