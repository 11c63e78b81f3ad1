//! rustfmt and clippy.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::Outcome;
use crate::build::{BARE_METAL, cargo};
use crate::run;
use crate::setup::rust;
use crate::tree::Tree;

/// The crates that also exist as bare-metal programs or libraries of such, besides the servers.
const BARE: [&str; 4] = ["hypervisor", "ipc", "hypervisor-abi", "kernel"];

/// `cargo fmt --check`.
pub fn format(tree: &Tree) -> Result<Outcome> {
    rust::component(tree, "rustfmt")?;
    run::quietly(Command::new("cargo").args(["fmt", "--all", "--check"]).current_dir(&tree.root))?;
    Ok(Outcome::passed())
}

/// Clippy over all that is built for this machine, and all that is built for bare metal.
pub fn clippy(tree: &Tree) -> Result<Outcome> {
    rust::component(tree, "clippy")?;
    cargo(tree, "for clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    // One by one, so that the crates that they share get the features that each wants.
    let mut packages: Vec<String> = BARE.map(str::to_owned).to_vec();
    for directory in fs::read_dir(tree.root.join("servers"))? {
        packages.push(directory?.file_name().to_string_lossy().into_owned());
    }
    packages.sort();
    for package in &packages {
        let arguments = ["clippy", "--target", BARE_METAL, "--package", package, "--", "-D", "warnings"];
        cargo(tree, &format!("{package} for clippy"), &arguments)?;
    }
    Ok(Outcome::passed())
}
