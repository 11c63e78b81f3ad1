//! `crtos enable`: puts the hypervisor under this Linux.
//!
//! The root cell's configuration is made from what this machine says of itself, or read from a file. All that can be checked
//! is checked before anything changes; if a later step fails, what was done is undone.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use image::Resource;

use crate::hypervisor::Hypervisor;
use crate::{files, memory, module};

#[derive(Args)]
pub struct Arguments {
    /// System configuration to use instead of one made from this machine
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take memory from this Linux as it runs (768M), instead of using what it was booted without; `crtos disable` gives it back
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["config", "write_config"])]
    memory: Option<String>,
    /// Write the configuration to FILE and do nothing else
    #[arg(long, value_name = "FILE")]
    write_config: Option<PathBuf>,
}

pub fn enable(arguments: &Arguments) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this needs root");
    }
    if Hypervisor::open().and_then(|hypervisor| hypervisor.cells()).is_ok_and(|cells| !cells.is_empty()) {
        bail!("the hypervisor is enabled already");
    }
    if let Some(path) = &arguments.write_config {
        return std::fs::write(path, configuration(arguments)?)
            .with_context(|| format!("cannot write {}", path.display()));
    }
    if std::fs::read_to_string("/sys/kernel/kexec_loaded").is_ok_and(|loaded| loaded.trim() == "1") {
        bail!("a kernel is loaded for kexec, which the hypervisor could not survive: unload it first (kexec -u)");
    }
    check_processor(&std::fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?)?;
    let image = files::read(&files::find(files::HYPERVISOR)?)?;
    // What can be wrong with it is known before the module is loaded.
    let config = if arguments.memory.is_none() { Some(configuration(arguments)?) } else { None };
    let size = arguments.memory.as_deref().map(memory::parse_size).transpose()?.unwrap_or(0);
    let loaded = module::load()?;
    let result = Hypervisor::open().and_then(|hypervisor| match &config {
        Some(config) => hypervisor.enable(config, &image),
        None => enable_with(&hypervisor, size, &image),
    });
    if result.is_err() && loaded {
        module::unload()?;
    }
    result
}

/// The system's configuration: from a file, or made from this machine.
fn configuration(arguments: &Arguments) -> Result<Vec<u8>> {
    match &arguments.config {
        Some(path) => files::read(path),
        None => Ok(image::cell::root_config(&files::layout()?, &files::machine()?)?),
    }
}

/// Enables it in memory that is taken from Linux now. What the system does not need of it is the root cell's, for other cells.
fn enable_with(hypervisor: &Hypervisor, size: u64, image: &[u8]) -> Result<()> {
    /// The hypervisor and the shared memory are mapped in pages of this size.
    const HUGE: u64 = 2 << 20;
    let mut layout = files::layout()?;
    let (start, end) = layout.reserved();
    let need = end - start + start % HUGE;
    if size < need {
        bail!("{} MiB are too little: this system needs {} MiB", size >> 20, need.div_ceil(1 << 20));
    }
    let taken = memory::take(hypervisor, size)?;
    layout.shift((taken.start + start % HUGE).wrapping_sub(start));
    let mut machine = files::machine()?;
    machine.memory.push(Resource {
        start: taken.start,
        size: taken.size,
        is_ram: false,
        is_device: false,
        name: "taken from Linux".to_owned(),
    });
    hypervisor.enable(&image::cell::root_config(&layout, &machine)?, image)?;
    taken.keep();
    Ok(())
}

/// Whether every processor can do what the hypervisor needs.
fn check_processor(cpuinfo: &str) -> Result<()> {
    let mut any = false;
    for line in cpuinfo.lines() {
        let Some((key, flags)) = line.split_once(':') else { continue };
        if key.trim() != "flags" {
            continue;
        }
        any = true;
        let has = |flag| flags.split_ascii_whitespace().any(|word| word == flag);
        if has("hypervisor") && !has("svm") {
            bail!("this virtual machine's processor has no AMD SVM: give it some (QEMU: -cpu EPYC,+svm,+npt)");
        }
        if !has("svm") {
            bail!(
                "this processor has no AMD SVM, or the firmware has switched it off: switch it on in the firmware's set-up"
            );
        }
        if !has("npt") {
            bail!("this processor has no nested paging: use a newer one (QEMU: -cpu EPYC,+svm,+npt)");
        }
    }
    if any { Ok(()) } else { bail!("/proc/cpuinfo says nothing of the processor: mount /proc") }
}

#[cfg(test)]
mod tests {
    use super::check_processor;

    #[test]
    fn processors() {
        assert!(check_processor("flags\t\t: fpu svm npt\nflags\t\t: fpu svm npt\n").is_ok());
        for (text, word) in [
            ("flags : fpu vmx\n", "firmware"),
            ("flags : fpu hypervisor\n", "virtual machine"),
            ("flags : svm\n", "nested paging"),
            ("flags : svm npt\nflags : fpu\n", "SVM"),
            ("", "/proc"),
        ] {
            assert!(check_processor(text).unwrap_err().to_string().contains(word), "{text}");
        }
    }
}
