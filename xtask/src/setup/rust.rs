//! Parts of the Rust toolchain: asks rustup for what is missing.

use std::process::Command;

use anyhow::{Context, Result};

use crate::run;
use crate::tree::{Tree, say};

/// A target, with its core library.
pub fn target(tree: &Tree, name: &str) -> Result<()> {
    let installed = run::text(rustup(tree).args(["target", "list", "--installed"]))?;
    if installed.lines().any(|line| line.trim() == name) {
        return Ok(());
    }
    say(&format!("rustup target add {name}"));
    run::quietly(rustup(tree).args(["target", "add", name]))
        .with_context(|| format!("the Rust target {name} cannot be installed; is this machine on line?"))?;
    Ok(())
}

/// A component, by its short name.
pub fn component(tree: &Tree, name: &str) -> Result<()> {
    let installed = run::text(rustup(tree).args(["component", "list", "--installed"]))?;
    if installed.lines().any(|line| line.starts_with(name)) {
        return Ok(());
    }
    say(&format!("rustup component add {name}"));
    run::quietly(rustup(tree).args(["component", "add", name]))
        .with_context(|| format!("the Rust component {name} cannot be installed; is this machine on line?"))?;
    Ok(())
}

/// In the checkout, whose rust-toolchain.toml says which toolchain is meant.
fn rustup(tree: &Tree) -> Command {
    let mut command = Command::new("rustup");
    command.current_dir(&tree.root);
    command
}
