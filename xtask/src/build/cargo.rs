//! Calls cargo, showing its progress only where it takes long.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::tree::{Tree, say};

/// The target of kernel, servers and hypervisor.
pub const BARE_METAL: &str = "x86_64-unknown-none";

/// Runs cargo in the checkout. What it compiles is shown, its warnings only if it fails.
pub fn cargo(tree: &Tree, what: &str, arguments: &[&str]) -> Result<()> {
    let mut child = Command::new("cargo")
        .args(arguments)
        .current_dir(&tree.root)
        .env("CARGO_TARGET_DIR", &tree.target)
        .env("CARGO_TERM_COLOR", "never")
        .env("CARGO_TERM_PROGRESS_WHEN", "never")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let mut said = String::new();
    let mut announced = false;
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line?;
            let busy = ["Compiling", "Downloading", "Updating", "Installing", "Checking"];
            if busy.iter().any(|word| line.trim_start().starts_with(word)) {
                if !announced {
                    say(&format!("building {what}"));
                    announced = true;
                }
                eprintln!("{line}");
            } else {
                said.push_str(&line);
                said.push('\n');
            }
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("building {what} failed:\n{}", said.trim_end());
    }
    Ok(())
}
