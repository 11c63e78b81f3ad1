//! The initramfs: the agent as `/init`, and the modules it needs to reach the root file system.
//!
//! Which modules, and in which order, is read from `modules.dep`, so that both kernels (and later
//! ones) are served by the same few names.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cpio::Archive;
use crate::wire::MODULE_LIST;

/// What the agent needs before it has a file system. Dependencies come by themselves.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// Makes the initramfs for the kernel whose modules are in `modules` (`…/lib/modules/<release>`).
pub fn build(modules: &Path, agent: &Path) -> Result<Vec<u8>> {
    let dep = fs::read_to_string(modules.join("modules.dep"))
        .with_context(|| format!("{} has no modules.dep; depmod makes it", modules.display()))?;
    let order = load_order(&dep, &MODULES)?;

    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "modules", "lower", "rw", "root"] {
        archive.directory(directory);
    }
    // The kernel opens the console before /init can mount anything.
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    let mut list = String::new();
    for path in &order {
        let name = path.rsplit('/').next().unwrap_or(path);
        let module = modules.join(path);
        let bytes = fs::read(&module).with_context(|| module.display().to_string())?;
        archive.file(&format!("modules/{name}"), 0o644, &bytes);
        list.push_str(&format!("/modules/{name}\n"));
    }
    archive.file(MODULE_LIST, 0o644, list.as_bytes());
    let agent_bytes = fs::read(agent).with_context(|| agent.display().to_string())?;
    archive.file("init", 0o755, &agent_bytes);
    Ok(archive.finish())
}

/// The paths of `wanted` and of all they depend on, dependencies first, each once.
fn load_order(dep: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut by_name = HashMap::new();
    for line in dep.lines() {
        let Some((path, needs)) = line.split_once(':') else {
            continue;
        };
        let file = path.rsplit('/').next().unwrap_or(path);
        let name = file.split('.').next().unwrap_or(file).replace('-', "_");
        by_name.insert(name, (path, needs));
    }
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let Some((path, needs)) = by_name.get(*name) else {
            bail!("this kernel has no module {name}");
        };
        // modules.dep lists what must be there first last.
        for step in needs.split_whitespace().rev().chain([*path]) {
            if !order.iter().any(|p| p == step) {
                order.push(step.to_owned());
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once() {
        let dep = "k/9p.ko: k/9pnet.ko k/fscache.ko k/netfs.ko\nk/9pnet.ko:\nk/9pnet_virtio.ko: k/9pnet.ko\n";
        let order = load_order(dep, &["9pnet_virtio", "9p"]).unwrap();
        assert_eq!(order, ["k/9pnet.ko", "k/9pnet_virtio.ko", "k/netfs.ko", "k/fscache.ko", "k/9p.ko"]);
    }

    #[test]
    fn a_missing_module_is_named() {
        assert!(load_order("", &["overlay"]).unwrap_err().to_string().contains("overlay"));
    }
}
