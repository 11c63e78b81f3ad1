//! `./x vm` and `./x run`: boot the machine, run one command in it, switch it off.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cli::{self, MachineOptions};
use crate::guest;
use crate::tree::{Tree, say};

/// A script or a shell in the machine's Linux.
pub fn vm(tree: &Tree, options: cli::Vm) -> Result<u8> {
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
    in_machine(tree, &options.machine, "vm", argv)
}

/// A command in the real-time realm.
pub fn run(tree: &Tree, options: cli::Run) -> Result<u8> {
    let mut argv: Vec<OsString> = Vec::new();
    if !options.machine.plain {
        argv.extend(["/usr/local/bin/crtos".into(), "run".into()]);
        if let Some(priority) = options.prio {
            argv.extend(["--prio".into(), priority.to_string().into()]);
        }
        if let Some(policy) = options.policy {
            argv.extend(["--policy".into(), policy.into()]);
        }
        argv.push("--".into());
    }
    argv.extend(options.command);
    in_machine(tree, &options.machine, "run", argv)
}

fn in_machine(tree: &Tree, options: &MachineOptions, name: &str, argv: Vec<OsString>) -> Result<u8> {
    let machine = guest::machine_for_caller(tree, options, name)?;
    let mut vm = guest::boot(&machine)?;
    if !options.plain && !options.installed {
        guest::bring_up(&mut vm)?;
    }
    let status = guest::run_as_caller(tree, &mut vm, argv, options.timeout)?;
    guest::power_off(vm)?;
    // A command's messages are its own; a script's author wants to know where to look.
    if status != 0 && name == "vm" {
        say(&format!("status {status}; logs in {}", shown(&machine.logs)));
    }
    Ok(status)
}

/// A path as short as the caller can use it.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
