//! The house's own rules, which no general tool knows.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use skep_tests::{command, workspace};

/// What a `core/` folder must not know: clock, chance, threads, files, processes, sockets.
const IMPURE: &[&str] = &[
    "tokio",
    "Instant",
    "SystemTime",
    "rand::",
    "std::fs",
    "std::process",
    "std::env",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
];

/// What no source may hold, and why.
const NOWHERE: &[(&str, &str)] = &[
    ("#[allow(", "use #[expect(.., reason = \"..\")]"),
    ("#![allow(", "use #![expect(.., reason = \"..\")]"),
    ("todo!(", "unfinished"),
    ("unimplemented!(", "unfinished"),
    ("openssl::", "ring is the only crypto provider"),
];

/// This file names what it forbids.
const THIS: &str = "xtask/src/lint/tidy.rs";

/// Folders of a developer's own machine.
const PRIVATE_PATHS: &[&str] = &[concat!("/", "work/"), concat!("/", "home/")];

pub fn run() -> Result<()> {
    let files = command::run(
        Command::new("git").current_dir(workspace()).args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
        ]),
        Duration::from_secs(30),
    )?;
    let mut wrong = Vec::new();
    let mut unsafe_files = Vec::new();
    for file in files.ok()?.lines() {
        let path = workspace().join(file);
        // Deleted but not yet committed, or not text.
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        wrong.extend(private_paths(file, &text));
        if file.ends_with(".rs") {
            wrong.extend(check_source(file, &text));
            let may_be = file.starts_with("ebpf/") || file == THIS;
            if !may_be && code_lines(&text).any(|(_, line)| is_unsafe(line)) {
                unsafe_files.push(file.to_string());
            }
        }
    }
    if unsafe_files.len() > 1 {
        wrong.push(format!(
            "unsafe outside ebpf/ in more than one file: {}",
            unsafe_files.join(", ")
        ));
    }
    if !wrong.is_empty() {
        bail!("tidy:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

fn private_paths(file: &str, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| PRIVATE_PATHS.iter().any(|path| line.contains(path)))
        .map(|(number, _)| format!("{file}:{}: a path of one developer's machine", number + 1))
        .collect()
}

fn is_unsafe(line: &str) -> bool {
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
        .iter()
        .any(|word| line.contains(word))
}

/// Lines that are not comments, with their numbers from 1 on.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line))
        .filter_map(|(number, line)| {
            let code = line.trim_start();
            (!code.starts_with("//")).then_some((number, code))
        })
}

fn check_source(file: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if !text.starts_with("//!") {
        wrong.push(format!(
            "{file}: the first line must say what the file is for (//!)"
        ));
    }
    if file.ends_with("/mod.rs") {
        wrong.push(format!("{file}: name it after its module, foo.rs beside foo/"));
    }
    if file != THIS {
        for (number, line) in code_lines(text) {
            let found = NOWHERE.iter().filter(|(word, _)| line.contains(word));
            wrong.extend(found.map(|(word, why)| format!("{file}:{number}: {word}: {why}")));
        }
    }
    if is_core(file) {
        for (number, line) in code_lines(text) {
            let found = IMPURE.iter().filter(|word| has_word(line, word));
            wrong.extend(
                found.map(|word| format!("{file}:{number}: {word} in a core/ folder, which is pure")),
            );
        }
    }
    wrong
}

fn is_core(file: &str) -> bool {
    Path::new(file)
        .parent()
        .is_some_and(|folder| folder.components().any(|part| part.as_os_str() == "core"))
}

/// `word` in `line`, not as the end of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_name = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part_of_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_folder_must_be_pure() {
        let text = "//! Pure.\n// Instant in a comment is fine\nuse std::time::Instant;\nlet brand::x = 1;\n";
        let wrong = check_source("control/src/core/plan.rs", text);
        assert_eq!(
            wrong,
            ["control/src/core/plan.rs:3: Instant in a core/ folder, which is pure"]
        );
        assert!(check_source("control/src/io/plan.rs", text).is_empty());
    }

    #[test]
    fn each_rule_finds_its_breach() {
        assert_eq!(check_source("a/src/b.rs", "fn main() {}\n").len(), 1);
        assert_eq!(check_source("a/src/b/mod.rs", "//! B.\n").len(), 1);
        assert_eq!(
            check_source("a/src/b.rs", "//! B.\n#[allow(dead_code)]\n").len(),
            1
        );
        assert_eq!(
            private_paths("README.md", concat!("see /", "home/me/notes")).len(),
            1
        );
        assert!(is_unsafe("let x = unsafe { y() };") && !is_unsafe("unsafe_op"));
    }
}
