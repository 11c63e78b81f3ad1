//! `cargo test` over the workspace.

use std::fs;
use std::process::{Command, Stdio};

use ::tests::suite::Count;
use anyhow::{Context, Result, bail};

use super::Outcome;
use crate::tree::{Tree, say};

/// Runs all unit and property tests.
pub fn run(tree: &Tree) -> Result<Outcome> {
    cargo_test(tree, "unit", &["test", "--workspace", "--no-fail-fast"], &[])
}

/// Runs a `cargo test` with these arguments and variables, and counts; what failed is shown, all of it is in a log.
pub fn cargo_test(tree: &Tree, name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Outcome> {
    let output = Command::new("cargo")
        .args(arguments)
        .current_dir(&tree.root)
        .env("CARGO_TARGET_DIR", &tree.target)
        .env("CARGO_TERM_COLOR", "never")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .context("cannot run cargo")?;
    let log = tree.new_log_directory(name)?.join("cargo.log");
    fs::write(&log, [&output.stdout[..], &output.stderr[..]].concat())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let count = count(&text);
    if count.failed > 0 {
        for line in text.lines().filter(|line| line.ends_with("... FAILED") || line.contains("panicked at")) {
            say(line);
        }
        say(&format!("more in {}", log.display()));
    } else if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines: Vec<&str> = errors.lines().filter(|l| !l.trim_start().starts_with("Compiling")).collect();
        bail!("{}\nmore in {}", lines[..lines.len().min(60)].join("\n"), log.display());
    }
    Ok(Outcome::Counted(count))
}

/// Adds up the lines `test result: ok. 12 passed; 0 failed; …`.
fn count(text: &str) -> Count {
    let mut total = Count::default();
    for line in text.lines().filter(|line| line.starts_with("test result:")) {
        let number = |what: &str| -> usize {
            let words: Vec<&str> = line.split_whitespace().collect();
            let at = words.iter().position(|word| word.trim_end_matches(';') == what);
            at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or(0)
        };
        total.passed += number("passed");
        total.failed += number("failed");
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let text =
            "test result: ok. 12 passed; 0 failed; 1 ignored\nx\ntest result: FAILED. 3 passed; 2 failed; 0 ignored\n";
        let total = count(text);
        assert_eq!((total.passed, total.failed), (15, 2));
    }
}
