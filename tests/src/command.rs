//! Child processes with a deadline, their output captured and, if wanted, shown as it comes.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command as a person would type it.
    pub command: String,
    /// Exit code, 128 + n for signal n.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Output {
    pub fn success(&self) -> bool {
        self.code == 0
    }

    /// Standard output without surrounding blanks; an error that shows everything if the exit code is not 0.
    pub fn ok(&self) -> Result<String> {
        if self.code != 0 {
            bail!("{self}");
        }
        Ok(self.stdout.trim().to_string())
    }

    /// Standard error; an error if the command succeeded.
    pub fn refused(&self) -> Result<String> {
        if self.code == 0 {
            bail!("this was to be refused, but it succeeded: {self}");
        }
        Ok(self.stderr.trim().to_string())
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` exited with {} after {:.1?}",
            self.command, self.code, self.took
        )?;
        for text in [self.stdout.trim(), self.stderr.trim()] {
            if !text.is_empty() {
                write!(f, "\n{}", abridged(text))?;
            }
        }
        Ok(())
    }
}

/// Lines without repetitions, the last ones if there are many: progress bars print the same for minutes.
fn abridged(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.dedup();
    let skipped = lines.len().saturating_sub(LINES_SHOWN);
    let shown = lines[skipped..].join("\n");
    if skipped > 0 {
        format!("... {skipped} lines before\n{shown}")
    } else {
        shown
    }
}

/// How many lines of a failed command's output its error shows.
const LINES_SHOWN: usize = 30;

/// A command line for people; only what needs it is quoted.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| quote(&word.to_string_lossy()));
    quoted.collect::<Vec<_>>().join(" ")
}

/// `word` as a shell needs it.
pub fn quote(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./:=,@%+".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Runs `command` to its end and captures its output. At the deadline it and its children are killed
/// and the result is an error.
pub fn run(command: &mut Command, deadline: Duration) -> Result<Output> {
    run_showing(command, deadline, &|_| ())
}

/// As [`run`], with each line handed to `show` when it comes.
pub fn run_showing(
    command: &mut Command,
    deadline: Duration,
    show: &(dyn Fn(&str) + Sync),
) -> Result<Output> {
    let line = describe(command);
    let begin = Instant::now();
    // A process group of its own: what it starts dies with it at the deadline.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn().with_context(|| format!("start `{line}`"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let captured = [Mutex::new(String::new()), Mutex::new(String::new())];
    let mut timed_out = false;
    let status = std::thread::scope(|scope| {
        scope.spawn(|| read_lines(stdout, &captured[0], show));
        scope.spawn(|| read_lines(stderr, &captured[1], show));
        loop {
            if let Some(status) = child.try_wait()? {
                return anyhow::Ok(status);
            }
            if begin.elapsed() > deadline && !timed_out {
                timed_out = true;
                killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
            }
            std::thread::sleep(Duration::from_millis(4));
        }
    });
    let status = status.with_context(|| format!("wait for `{line}`"))?;
    let [stdout, stderr] = captured.map(|text| text.into_inner().unwrap_or_default());
    let code = status.code().unwrap_or_else(|| 128 + signal_of(status));
    let output = Output {
        command: line,
        code,
        stdout,
        stderr,
        took: begin.elapsed(),
    };
    if timed_out {
        bail!("no end within {deadline:?}, killed: {output}");
    }
    Ok(output)
}

fn signal_of(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.signal().unwrap_or(0)
}

fn read_lines(pipe: Option<impl Read>, into: &Mutex<String>, show: &(dyn Fn(&str) + Sync)) {
    let Some(pipe) = pipe else { return };
    let mut reader = BufReader::new(pipe);
    let mut bytes = Vec::new();
    while matches!(reader.read_until(b'\n', &mut bytes), Ok(length) if length > 0) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        show(text.trim_end_matches('\n'));
        if let Ok(mut captured) = into.lock() {
            captured.push_str(&text);
        }
        bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_code_are_captured() {
        let output = run(
            Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]),
            Duration::from_secs(5),
        );
        let output = output.unwrap();
        assert_eq!(
            (output.code, output.stdout.as_str(), output.stderr.as_str()),
            (3, "out\n", "err\n")
        );
        assert_eq!(output.command, "sh -c 'echo out; echo err >&2; exit 3'");
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let begin = Instant::now();
        let error = run(
            Command::new("sh").args(["-c", "sleep 60; echo"]),
            Duration::from_millis(100),
        )
        .unwrap_err();
        assert!(error.to_string().starts_with("no end within 100ms"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}
