//! Loading and unloading `crtos.ko`.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

use crate::{files, sys};

const NODE: &str = "/dev/crtos";

/// Loads the module if its device node is not there. True: it was not.
pub fn load() -> Result<bool> {
    if Path::new(NODE).exists() {
        return Ok(false);
    }
    let path = files::find(files::MODULE)?;
    let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    match sys::finit_module(file.as_fd()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(EEXIST) => {}
        Err(error) => return Err(explain(&error).context(format!("cannot load {}", path.display()))),
    }
    if !Path::new(NODE).exists() {
        bail!("crtos.ko is loaded but {NODE} is missing: mount a devtmpfs on /dev");
    }
    Ok(true)
}

const EPERM: i32 = 1;
const ENOEXEC: i32 = 8;
const EEXIST: i32 = 17;
const EKEYREJECTED: i32 = 129;

fn explain(error: &std::io::Error) -> anyhow::Error {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match error.raw_os_error() {
        Some(EPERM) => anyhow!("this needs root (and a kernel that is not locked down)"),
        Some(ENOEXEC) => {
            anyhow!("it was built for another kernel than {}: build it against this one's headers", release.trim())
        }
        Some(EKEYREJECTED) => anyhow!("this kernel takes signed modules only: sign it, or switch secure boot off"),
        _ => anyhow!("{error}; the kernel's log (dmesg) may say more"),
    }
}

/// Unloads the module.
pub fn unload() -> Result<()> {
    match sys::delete_module(c"crtos") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(anyhow!("cannot unload crtos.ko: {error}; something still uses it")),
    }
}
