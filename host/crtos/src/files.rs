//! Where the product's files lie: `$CRTOS_HOME`, or beside this binary, or `/usr/lib/crtos`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::manifest::Restart;
use image::{Layout, Machine, Manifest, Source};

use crate::memory;

/// The kernel module.
pub const MODULE: &str = "crtos.ko";
/// The hypervisor.
pub const HYPERVISOR: &str = "hypervisor.bin";
/// What runs in the cell.
pub const IMAGE: &str = "srtos.bin";
/// Names of the servers' functions.
pub const SYMBOLS: &str = "srtos.symbols";
/// The manifest that image and cells were composed from.
pub const MANIFEST: &str = "manifest.toml";

const INSTALLED: &str = "/usr/lib/crtos";

/// The directory with the product's files.
pub fn home() -> PathBuf {
    if let Some(home) = std::env::var_os("CRTOS_HOME") {
        return home.into();
    }
    let beside = std::env::current_exe().ok().and_then(|binary| binary.parent().map(Path::to_path_buf));
    match beside {
        Some(directory) if directory.join(MODULE).exists() => directory,
        _ => INSTALLED.into(),
    }
}

/// The path of a file of the product, which must be there.
pub fn find(name: &str) -> Result<PathBuf> {
    let home = home();
    let path = home.join(name);
    if !path.exists() {
        bail!("{} is missing in {}: install it there, or set CRTOS_HOME to where it is", name, home.display());
    }
    Ok(path)
}

/// Reads a file of the product.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The memory layout that the manifest says; where the hypervisor lies, if it is enabled.
pub fn layout() -> Result<Layout> {
    let path = find(MANIFEST)?;
    let mut layout = Layout::from_manifest(&path)?;
    let iomem = std::fs::read_to_string("/proc/iomem").unwrap_or_default();
    if let Some(start) = memory::of_hypervisor(&iomem) {
        layout.shift(start.wrapping_sub(layout.hypervisor_memory.0));
    }
    Ok(layout)
}

/// What the manifest says of a cell that has failed.
pub fn restart() -> Result<Restart> {
    Ok(Manifest::parse(&Source::read(&find(MANIFEST)?)?)?.cell.restart.0.into_inner())
}

/// The machine as Linux sees it now.
pub fn machine() -> Result<Machine> {
    Ok(Machine::read(Path::new("/"))?)
}
