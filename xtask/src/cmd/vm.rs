//! `./x vm`: a script or a shell in the machine's Linux.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};

use crate::cli;
use crate::guest;
use crate::tree::{Tree, say};

/// Boots, runs, switches off.
pub fn run(tree: &Tree, options: cli::Vm) -> Result<u8> {
    let argv: Vec<OsString> = match &options.script {
        None => vec!["/bin/bash".into(), "-l".into()],
        Some(script) => {
            let path = std::path::absolute(tree.caller.join(script))?;
            let what = std::fs::metadata(&path).with_context(|| path.display().to_string())?;
            // Like a shell: a file that is not executable is read by one.
            if what.permissions().mode() & 0o111 == 0 {
                vec!["/bin/bash".into(), path.into()]
            } else {
                vec![path.into()]
            }
        }
    };
    let machine = guest::machine(tree, &options.machine, "vm")?;
    let mut vm = guest::boot(&machine)?;
    let status = guest::run_as_caller(tree, &mut vm, argv, options.machine.timeout)?;
    guest::power_off(vm)?;
    if status != 0 {
        say(&format!("status {status}; logs in {}", machine.logs.display()));
    }
    Ok(status)
}
