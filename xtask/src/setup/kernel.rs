//! Debian's kernels and their headers, unpacked under `build/kernel/`, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tests::machine::Kernel;
use tests::suite::Flavour;

use super::apt;
use crate::run;
use crate::tree::{Tree, say};

/// The kernel of that flavour, fetched if it is not there yet.
pub fn get(tree: &Tree, flavour: Flavour) -> Result<Kernel> {
    let name = flavour.name();
    let meta = match flavour {
        Flavour::Rt => "linux-image-rt-amd64",
        Flavour::Stock => "linux-image-amd64",
    };
    let directory = tree.build.join("kernel").join(name);
    if !directory.exists() {
        let _guard = tree.lock("kernel")?;
        if !directory.exists() {
            fetch(&directory, meta).with_context(|| format!("fetching Debian's {name} kernel"))?;
        }
    }
    describe(&directory)
}

fn fetch(directory: &Path, meta: &str) -> Result<()> {
    let image = apt::real_package(meta, "linux-image-")?;
    let release = image.trim_start_matches("linux-image-").to_owned();
    say(&format!("unpacking Debian's kernel {release} and its headers (80 MB to download)"));
    let headers = format!("linux-headers-{release}");
    let mut packages = vec![image, headers.clone()];
    // Of what the headers need: their common part, and the build scripts. The compiler is ours.
    packages.extend(
        apt::dependencies(&headers)?
            .into_iter()
            .filter(|name| name.starts_with("linux-headers-") || name.starts_with("linux-kbuild-")),
    );
    let work = directory.with_extension("new");
    let _ = fs::remove_dir_all(&work);
    apt::unpack(&packages, &work)?;

    // Two links that point to where the headers would be installed.
    for link in ["build", "source"] {
        let _ = fs::remove_file(work.join("lib/modules").join(&release).join(link));
    }
    relocate(&work.join("usr/src").join(&headers).join("Makefile"))?;
    run::quietly(Command::new("depmod").arg("-b").arg(&work).arg(&release))?;
    fs::write(work.join("release"), &release)?;
    fs::rename(&work, directory)?;
    Ok(())
}

/// Debian's header Makefile includes its common part by an absolute path: make it relative.
fn relocate(makefile: &Path) -> Result<()> {
    let text = fs::read_to_string(makefile).with_context(|| makefile.display().to_string())?;
    let here = "include $(dir $(lastword $(MAKEFILE_LIST)))../";
    fs::write(makefile, text.replace("include /usr/src/", here))?;
    Ok(())
}

fn describe(directory: &Path) -> Result<Kernel> {
    let file = directory.join("release");
    let release = fs::read_to_string(&file)
        .with_context(|| format!("{} is damaged: delete it, it is made anew", directory.display()))?;
    let at = |path: String| -> PathBuf { directory.join(path) };
    Ok(Kernel {
        image: at(format!("boot/vmlinuz-{release}")),
        modules: at(format!("lib/modules/{release}")),
        headers: at(format!("usr/src/linux-headers-{release}")),
        release,
    })
}
