//! `./x image`: the product's own `crtos image`, on this machine.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::tree::Tree;
use crate::{build, cli};

/// Hands the arguments over. Where programs are needed, those of this tree are built first.
pub fn run(tree: &Tree, options: cli::Image) -> Result<u8> {
    let crtos = build::command_line(tree)?;
    let mut command = Command::new(&crtos);
    command.arg("image");
    let verb = options.arguments.first().and_then(|verb| verb.to_str()).unwrap_or_default();
    let needs_programs = verb == "build" || options.arguments.iter().any(|argument| argument == "--built");
    let mut arguments = options.arguments.clone();
    if needs_programs && let Some(manifest) = arguments.get_mut(1).filter(|argument| !is_option(argument)) {
        let path = build::manifest(tree, &manifest.to_string_lossy())?;
        // What is wrong with the manifest comes before what is wrong with the programs that it names.
        let mut check = Command::new(&crtos);
        let checked = check.args(["image", "check"]).arg(&path).stdout(Stdio::null()).status();
        if !checked.context("cannot run crtos")?.success() {
            return Ok(1);
        }
        command.env("CRTOS_PROGRAMS", build::link(tree, &path)?);
        *manifest = path.into();
    }
    let status = command.args(arguments).current_dir(&tree.caller).status().context("cannot run crtos")?;
    Ok(status.code().map_or(125, |code| code as u8))
}

fn is_option(argument: &OsStr) -> bool {
    argument.as_encoded_bytes().starts_with(b"-")
}
