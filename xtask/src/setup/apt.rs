//! Debian packages: installs what is missing, and fetches without installing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run;
use crate::tree::say;

/// Installs those of `packages` (name, purpose) that are missing, after saying which.
pub fn require(packages: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = packages.iter().filter(|(name, _)| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say("installing Debian packages:");
    for (name, purpose) in &missing {
        say(&format!("  {name}: {purpose}"));
    }
    let install = || {
        let mut command = privileged("apt-get")?;
        command.args(["install", "--yes", "--quiet", "--no-install-recommends"]);
        command.env("DEBIAN_FRONTEND", "noninteractive").args(missing.iter().map(|(name, _)| name));
        run::quietly(&mut command)
    };
    // An old or empty package list is the usual reason for a failure.
    if install().is_err() {
        update()?;
        install().context("the packages above are needed")?;
    }
    Ok(())
}

/// Brings the package lists up to date.
pub fn update() -> Result<()> {
    say("apt-get update");
    run::quietly(privileged("apt-get")?.arg("update"))
        .context("the package lists cannot be updated; is this machine on line?")?;
    Ok(())
}

/// Where this machine has the packages of that Debian release from.
pub fn mirror(release: &str) -> Result<String> {
    let find = || -> Result<Option<String>> {
        let format = "$(RELEASE) $(COMPONENT) $(REPO_URI)";
        let text =
            run::text(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
        let wanted = format!("{release} main ");
        Ok(text.lines().find_map(|line| line.strip_prefix(&wanted)).map(str::to_owned))
    };
    if let Ok(Some(mirror)) = find() {
        return Ok(mirror);
    }
    update()?;
    find()?.with_context(|| format!("none of this machine's package sources has Debian's release {release}"))
}

/// The package that a meta package stands for: its first dependency that starts with `prefix`.
pub fn real_package(meta: &str, prefix: &str) -> Result<String> {
    let find = || -> Result<Option<String>> {
        let text = run::text(Command::new("apt-cache").args(["depends", "--important", meta]))?;
        Ok(text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned))
    };
    if let Ok(Some(name)) = find() {
        return Ok(name);
    }
    update()?;
    find()?.with_context(|| format!("Debian's package {meta} is not in the package lists"))
}

/// The names that `package` depends on.
pub fn dependencies(package: &str) -> Result<Vec<String>> {
    let text = run::text(Command::new("apt-cache").args(["depends", "--important", package]))?;
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names.map(str::to_owned).collect())
}

/// Downloads `packages` and unpacks them under `directory`, without installing anything.
pub fn unpack(packages: &[String], directory: &Path) -> Result<()> {
    let downloads = directory.with_extension("download");
    std::fs::create_dir_all(&downloads)?;
    let download = || {
        let mut command = Command::new("apt-get");
        command.arg("download").args(packages).current_dir(&downloads);
        run::quietly(&mut command)
    };
    if download().is_err() {
        update()?;
        download().context("the packages cannot be downloaded; is this machine on line?")?;
    }
    unpack_all(&downloads, directory)?;
    std::fs::remove_dir_all(&downloads)?;
    Ok(())
}

/// Unpacks all packages in `downloads` under `directory`.
pub fn unpack_all(downloads: &Path, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    for entry in std::fs::read_dir(downloads)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run::quietly(Command::new("dpkg-deb").arg("-x").arg(&path).arg(directory))?;
        }
    }
    Ok(())
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

fn privileged(program: &str) -> Result<Command> {
    if rustix::process::geteuid().is_root() {
        return Ok(Command::new(program));
    }
    if !Path::new("/usr/bin/sudo").exists() {
        bail!("installing packages needs root: run this as root, or install sudo");
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}
