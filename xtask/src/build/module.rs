//! `crtos.ko` and modules for tests, built by the kernel's own build system against the unpacked headers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tests::machine::Kernel;

use crate::run;
use crate::tree::{Tree, say};

/// Builds `crtos.ko` for that kernel.
pub fn build(tree: &Tree, kernel: &Kernel, flavour: &str) -> Result<PathBuf> {
    make(tree, kernel, "host/driver", &tree.build.join("driver").join(flavour), "crtos.ko")
}

/// Builds the module of the tests with that name for that kernel.
pub fn of_tests(tree: &Tree, kernel: &Kernel, flavour: &str, name: &str) -> Result<PathBuf> {
    let work = tree.build.join("test-modules").join(flavour).join(name);
    make(tree, kernel, &format!("host/driver/tests/{name}"), &work, &format!("{name}.ko"))
}

/// Out of the tree, because kbuild writes beside the sources.
fn make(tree: &Tree, kernel: &Kernel, source: &str, work: &Path, module: &str) -> Result<PathBuf> {
    let _guard = tree.lock("module")?;
    let source = tree.root.join(source);
    let module = work.join(module);
    let stamp = work.join("release");
    let same_kernel = fs::read_to_string(&stamp).is_ok_and(|release| release == kernel.release);
    if !same_kernel {
        let _ = fs::remove_dir_all(work);
    }
    fs::create_dir_all(work)?;
    let changed = copy_changed(&source, work)?;
    if changed || !module.exists() {
        let name = module.file_name().unwrap_or_default().display();
        say(&format!("building {name} for {}", kernel.release));
        // A failed build must not leave an older module behind.
        let _ = fs::remove_file(&module);
        run::quietly(
            Command::new("make").arg("-C").arg(&kernel.headers).arg(format!("M={}", work.display())).arg("modules"),
        )
        .with_context(|| format!("building {name}"))?;
        fs::write(&stamp, &kernel.release)?;
    }
    Ok(module)
}

/// Makes the sources in `to` those in `from`; whether anything had to be done.
fn copy_changed(from: &Path, to: &Path) -> Result<bool> {
    let mut changed = false;
    let mut sources = Vec::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let path = Path::new(&name);
        let is_source = name == "Kbuild" || matches!(path.extension().and_then(|e| e.to_str()), Some("c" | "h" | "S"));
        if is_source {
            sources.push(name.clone());
            let bytes = fs::read(entry.path())?;
            if fs::read(to.join(&name)).ok().as_ref() != Some(&bytes) {
                fs::write(to.join(&name), bytes)?;
                changed = true;
            }
        }
    }
    // A source that is gone must not be found by the Kbuild file's wildcards.
    for entry in fs::read_dir(to)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        let is_source =
            text.ends_with(".c") && !text.ends_with(".mod.c") || text.ends_with(".h") || text.ends_with(".S");
        if is_source && !sources.contains(&name) {
            fs::remove_file(to.join(&name))?;
            changed = true;
        }
    }
    Ok(changed)
}
