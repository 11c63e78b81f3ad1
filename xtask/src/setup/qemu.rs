//! QEMU 10 of Debian's backports beside the installed one, unpacked under `build/qemu10/`: its emulated processors have x2APIC.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt;
use crate::run;
use crate::tree::{Tree, say};

const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Its libraries are those of the installed QEMU.
const PACKAGES: [&str; 4] = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];

/// An unpacked QEMU.
pub struct Qemu {
    /// Its program.
    pub program: PathBuf,
    /// Where it finds its firmware: arguments.
    pub arguments: [String; 4],
}

/// QEMU 10, fetched if it is not there yet.
pub fn newer(tree: &Tree) -> Result<Qemu> {
    let directory = tree.build.join("qemu10");
    if !directory.exists() {
        let _guard = tree.lock("qemu10")?;
        if !directory.exists() {
            fetch(&directory).context("fetching QEMU 10")?;
        }
    }
    let firmware = |name: &str| directory.join("usr/share").join(name).display().to_string();
    Ok(Qemu {
        program: directory.join("usr/bin/qemu-system-x86_64"),
        arguments: ["-L".into(), firmware("qemu"), "-L".into(), firmware("seabios")],
    })
}

/// With package lists of its own, so that the machine's stay as they are.
fn fetch(directory: &Path) -> Result<()> {
    say("unpacking QEMU 10 from bookworm-backports (13 MB to download)");
    let work = directory.with_extension("new");
    let _ = fs::remove_dir_all(&work);
    let lists = work.join("lists");
    fs::create_dir_all(lists.join("partial"))?;
    let source = work.join("sources.list");
    // From where this machine has its other packages.
    let mirror = apt::mirror("bookworm")?;
    fs::write(&source, format!("deb [signed-by={KEYS}] {mirror} bookworm-backports main\n"))?;
    let option = |name: &str, path: &Path| format!("-o{name}={}", path.display());
    let options = [
        option("Dir::Etc::SourceList", &source),
        option("Dir::Etc::SourceParts", Path::new("/dev/null")),
        option("Dir::State::Lists", &lists),
        option("Dir::Cache", &work),
    ];
    run::quietly(Command::new("apt-get").args(&options).arg("update")).context("is this machine on line?")?;
    let downloads = work.join("downloads");
    fs::create_dir(&downloads)?;
    run::quietly(Command::new("apt-get").args(&options).arg("download").args(PACKAGES).current_dir(&downloads))?;
    let root = work.join("root");
    apt::unpack_all(&downloads, &root)?;
    fs::rename(&root, directory)?;
    fs::remove_dir_all(&work)?;
    Ok(())
}
