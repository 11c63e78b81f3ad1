//! Builds the product: command line, kernel and servers, hypervisor, kernel module, image.
//!
//! Cargo knows what of the Rust parts is up to date; the rest is compared here, so that a second
//! run does nothing.

mod cargo;
pub mod module;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ::tests::machine::Kernel;
use ::tests::suite::Flavour;
use anyhow::{Context, Result, bail};

pub use cargo::{BARE_METAL, cargo, library, packages};

use crate::tree::Tree;
use crate::{run, setup};

/// Where the files of the product lie inside Linux.
pub const INSTALLED: &str = "/usr/lib/crtos";

/// What the bare-metal side of one image consists of.
pub struct Realm {
    /// Directory with `srtos.bin`, `srtos.elf`, `srtos.cell` and what else the composer writes.
    pub directory: PathBuf,
    /// The hypervisor as it is loaded.
    pub hypervisor: PathBuf,
}

/// The manifest that `name` stands for: a file, or one that ships.
pub fn manifest(tree: &Tree, name: &str) -> Result<PathBuf> {
    let shipped = tree.root.join("image/manifests").join(format!("{name}.toml"));
    if !name.contains('/') && shipped.exists() {
        return Ok(shipped);
    }
    let path = tree.caller.join(name);
    if !path.is_file() {
        bail!("there is no manifest {name}, neither as a file nor in image/manifests/");
    }
    Ok(path)
}

/// Builds the host's command line: `crtos`.
pub fn command_line(tree: &Tree) -> Result<PathBuf> {
    cargo(tree, "the command line", &["build", "--release", "--package", "crtos"])?;
    Ok(tree.target.join("release/crtos"))
}

/// Builds kernel, hypervisor and the servers that `manifest` names; gives the directory that they are in.
pub fn link(tree: &Tree, manifest: &Path) -> Result<PathBuf> {
    setup::rust::target(tree, BARE_METAL)?;
    let servers = programs(manifest)?;
    let packages_of_servers = packages(tree, &servers)?;
    // By package, and the kernel apart from the servers: cargo would otherwise give shared crates the features that the others
    // want, and the kernel has no allocator.
    let groups = [
        (
            "kernel and hypervisor",
            vec!["kernel".into(), "hypervisor".into()],
            vec!["kernel".into(), "hypervisor".into()],
        ),
        ("servers", packages_of_servers, servers),
    ];
    let flags = path_free(tree)?;
    for (what, packages, programs) in &groups {
        let mut arguments = vec!["build", "--release", "--target", BARE_METAL, "--config", &flags];
        for package in packages {
            arguments.extend(["--package", package]);
        }
        for program in programs {
            arguments.extend(["--bin", program]);
        }
        // The kernel that is tested by itself checks all its structures at the end.
        if packages.iter().any(|package| package == "kernel") && manifest.file_stem() == Some(OsStr::new("selftest")) {
            arguments.extend(["--features", "kernel/invariants"]);
        }
        cargo(tree, what, &arguments)?;
    }
    Ok(tree.target.join(BARE_METAL).join("release"))
}

/// Flags for bare-metal programs: the paths in them (a panic says where it was) are the same wherever they are built.
fn path_free(tree: &Tree) -> Result<String> {
    let sysroot = run::text(Command::new("rustc").args(["--print", "sysroot"]).current_dir(&tree.root))?;
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => Path::new(&std::env::var_os("HOME").context("there is no HOME")?).join(".cargo"),
    };
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    let renamed = [(tree.root.clone(), "/crtos"), (cargo_home, "/cargo"), (library, "/rust")];
    let flags: Vec<String> =
        renamed.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect();
    // A list of strings is the same in TOML and in this form of Rust's.
    Ok(format!("target.{BARE_METAL}.rustflags={flags:?}"))
}

/// Builds kernel, servers and hypervisor, and composes the image of `manifest`.
pub fn realm(tree: &Tree, manifest: &Path) -> Result<Realm> {
    let linked = link(tree, manifest)?;
    cargo(tree, "the composer", &["build", "--package", "image", "--bin", "compose"])?;

    let _guard = tree.lock("image")?;
    let hypervisor = tree.build.join("hypervisor.bin");
    flatten(&linked.join("hypervisor"), &hypervisor)?;

    let name = manifest.file_stem().and_then(OsStr::to_str).context("a manifest has a name")?;
    let directory = tree.build.join("image").join(name);
    run::quietly(
        Command::new(tree.target.join("debug/compose"))
            .arg(manifest)
            .arg("--kernel")
            .arg(linked.join("kernel"))
            .arg("--servers")
            .arg(&linked)
            .arg("--output")
            .arg(&directory),
    )
    .with_context(|| format!("composing the image of {}", manifest.display()))?;
    Ok(Realm { directory, hypervisor })
}

/// Builds everything that Linux gets: (from, to, mode).
pub fn product(
    tree: &Tree,
    kernel: &Kernel,
    flavour: Flavour,
    manifest: &Path,
) -> Result<Vec<(PathBuf, PathBuf, u32)>> {
    let crtos = command_line(tree)?;
    let module = module::build(tree, kernel, flavour.name())?;
    let realm = realm(tree, manifest)?;
    let installed = Path::new(INSTALLED);
    let mut files = vec![
        (crtos, "/usr/local/bin/crtos".into(), 0o755),
        (module, installed.join("crtos.ko"), 0o644),
        (realm.hypervisor, installed.join("hypervisor.bin"), 0o644),
    ];
    for entry in fs::read_dir(&realm.directory)? {
        let entry = entry?;
        files.push((entry.path(), installed.join(entry.file_name()), 0o644));
    }
    Ok(files)
}

/// The programs that a manifest names, `init` among them.
fn programs(manifest: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(manifest).with_context(|| manifest.display().to_string())?;
    let table: toml::Table = text.parse().with_context(|| manifest.display().to_string())?;
    let field = |table: &toml::Table, key: &str| table.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    let init = table.get("init").and_then(toml::Value::as_table);
    let mut names = vec![init.and_then(|init| field(init, "binary")).unwrap_or_else(|| "init".into())];
    for server in table.get("server").and_then(toml::Value::as_array).into_iter().flatten() {
        let Some(server) = server.as_table() else {
            continue;
        };
        // What is wrong with the manifest, the composer says better.
        names.extend(field(server, "binary").or_else(|| field(server, "name")));
    }
    // A path leads to a program that somebody else builds.
    names.retain(|name| !name.contains('/'));
    names.sort();
    names.dedup();
    Ok(names)
}

/// A linked program as the bytes that are loaded.
fn flatten(program: &Path, flat: &Path) -> Result<()> {
    let new = flat.with_extension("new");
    run::quietly(Command::new("objcopy").args(["-O", "binary"]).arg(program).arg(&new))?;
    replace_if_different(&new, flat)
}

/// Renames `new` to `old`, or deletes it if they are equal.
fn replace_if_different(new: &Path, old: &Path) -> Result<()> {
    if fs::read(old).ok().as_deref() == Some(&fs::read(new)?) {
        fs::remove_file(new)?;
    } else {
        fs::rename(new, old)?;
    }
    Ok(())
}

/// Builds the inmates into that directory.
pub fn inmates(tree: &Tree, directory: &Path) -> Result<()> {
    // A processor as old as they pretend.
    setup::rust::target(tree, "i586-unknown-linux-gnu")?;
    let script = tree.root.join("hypervisor/inmates/build.sh");
    // In the checkout, whose rust-toolchain.toml says which toolchain is meant.
    run::quietly(Command::new(script).arg(directory).current_dir(&tree.root)).context("building the inmates")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_a_manifest() {
        let directory = std::env::temp_dir().join(format!("crtos-programs-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let manifest = directory.join("m.toml");
        fs::write(&manifest, "[init]\nbinary='first'\n[[server]]\nname='own'\nbinary='target/own'\n[[server]]\nname='a'\n[[server]]\nname='b'\nbinary='a'\n")
            .unwrap();
        assert_eq!(programs(&manifest).unwrap(), ["a", "first"]);
        fs::remove_dir_all(directory).unwrap();
    }
}
