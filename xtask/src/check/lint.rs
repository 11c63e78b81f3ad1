//! rustfmt and clippy.

use std::process::Command;

use anyhow::Result;

use super::Outcome;
use crate::build::{BARE_METAL, cargo};
use crate::run;
use crate::setup::rust;
use crate::tree::Tree;

/// The crates that also exist as bare-metal programs or libraries of such.
const BARE: [&str; 9] = ["hypervisor", "ipc", "hypervisor-abi", "kernel", "rt", "audit", "init", "linux", "vfs-proxy"];

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
    for package in BARE {
        let arguments = ["clippy", "--target", BARE_METAL, "--package", package, "--", "-D", "warnings"];
        cargo(tree, &format!("{package} for clippy"), &arguments)?;
    }
    Ok(Outcome::passed())
}
