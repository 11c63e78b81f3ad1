//! Calls cargo, showing its progress only where it takes long.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run;
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

/// The packages of this workspace that have the programs `programs`.
pub fn packages(tree: &Tree, programs: &[String]) -> Result<Vec<String>> {
    let mut command = Command::new("cargo");
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(&tree.root);
    let metadata: serde_json::Value = serde_json::from_str(&run::text(&mut command)?)?;
    let mut owners = HashMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        for target in package["targets"].as_array().into_iter().flatten() {
            let is_program = target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "bin"));
            if let (true, Some(name), Some(owner)) = (is_program, target["name"].as_str(), package["name"].as_str()) {
                owners.insert(name.to_owned(), owner.to_owned());
            }
        }
    }
    let owner = |name: &String| {
        let owner = owners.get(name).cloned();
        owner.with_context(|| format!("the manifest names a program {name}, which no package of this tree builds"))
    };
    let mut found: Vec<String> = programs.iter().map(owner).collect::<Result<_>>()?;
    found.sort();
    found.dedup();
    Ok(found)
}

/// Builds a shared library for QEMU, `tests/examples/NAME.rs`: where it is.
pub fn library(tree: &Tree, what: &str, name: &str) -> Result<PathBuf> {
    cargo(tree, what, &["build", "--package", "tests", "--example", name])?;
    Ok(tree.target.join(format!("debug/examples/lib{name}.so")))
}
