//! `./x image`: the product's own `crtos image`, on this machine.

use std::process::Command;

use anyhow::{Context, Result};

use crate::tree::Tree;
use crate::{build, cli};

/// Hands the arguments over.
pub fn run(tree: &Tree, options: cli::Image) -> Result<u8> {
    let crtos = build::command_line(tree)?;
    let status = Command::new(crtos)
        .arg("image")
        .args(options.arguments)
        .current_dir(&tree.caller)
        .status()
        .context("cannot run crtos")?;
    Ok(status.code().map_or(125, |code| code as u8))
}
