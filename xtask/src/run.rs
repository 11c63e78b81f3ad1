//! Runs other programs for us, quietly unless they fail.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs it to its end; if it fails, the error has what it said.
pub fn quietly(command: &mut Command) -> Result<Output> {
    let name = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let line = format!("{command:?}").replace('"', "");
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        bail!("{line}\n{}\n{name} ended with {}", String::from_utf8_lossy(&said).trim(), output.status);
    }
    Ok(output)
}

/// What it writes to its standard output.
pub fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&quietly(command)?.stdout).into_owned())
}
