//! Sizes of what is loaded.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use elf::ElfBytes;
use elf::abi::{PF_X, PT_LOAD};
use elf::endian::LittleEndian;

use super::Figure;
use crate::build::{self, BARE_METAL};
use crate::tree::Tree;

/// Measures.
pub fn measure(tree: &Tree) -> Result<Vec<Figure>> {
    let realm = build::realm(tree, &build::manifest(tree, "default")?)?;
    let linked = tree.target.join(BARE_METAL).join("release");
    let file =
        |path: &Path| -> Result<u64> { Ok(fs::metadata(path).with_context(|| path.display().to_string())?.len()) };
    let mut figures = vec![
        Figure::new("image.bytes", file(&realm.directory.join("srtos.bin"))?, "bytes"),
        Figure::new("hypervisor.bytes", file(&realm.hypervisor)?, "bytes"),
        hypervisor_text(&linked)?,
        kernel_text(&linked)?,
    ];
    for server in ["init", "linux", "vfs-proxy"] {
        figures.push(Figure::new(format!("{server}.text"), text(&linked.join(server))?, "bytes"));
    }
    Ok(figures)
}

/// Bytes of the hypervisor's instructions.
pub fn hypervisor_text(linked: &Path) -> Result<Figure> {
    Ok(Figure::new("hypervisor.text", text(&linked.join("hypervisor"))?, "bytes").at_most(128 << 10))
}

/// Bytes of the kernel's instructions.
pub fn kernel_text(linked: &Path) -> Result<Figure> {
    Ok(Figure::new("kernel.text", text(&linked.join("kernel"))?, "bytes").at_most(96 << 10))
}

/// Bytes of executable segments.
fn text(program: &Path) -> Result<u64> {
    let bytes = fs::read(program).with_context(|| program.display().to_string())?;
    let elf = ElfBytes::<LittleEndian>::minimal_parse(&bytes)?;
    let segments = elf.segments().with_context(|| format!("{} has no segments", program.display()))?;
    Ok(segments.iter().filter(|s| s.p_type == PT_LOAD && s.p_flags & PF_X != 0).map(|s| s.p_filesz).sum())
}
