//! `crtos hardware check`: what of this machine the hypervisor and the real-time realm need, and why.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use image::Machine;

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List each feature: whether it is there, and why it matters
    Check {
        /// Look at the machine whose /proc and /sys are stored below DIR
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
    },
}

pub fn hardware(arguments: &Arguments) -> Result<()> {
    let Command::Check { root } = &arguments.command;
    let path = root.join("proc/cpuinfo");
    let cpuinfo = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let in_use = Path::new("/sys/module/kvm_amd/refcnt");
    let kvm = root.join(in_use.strip_prefix("/").unwrap_or(in_use));
    let kvm = std::fs::read_to_string(kvm).is_ok_and(|count| count.trim() != "0");
    let features = features(&cpuinfo, &Machine::read(root)?, kvm);
    let mut missing = Vec::new();
    for feature in &features {
        let state = match (feature.there, feature.needed) {
            (true, _) => "yes",
            (false, true) => "NO",
            (false, false) => "no",
        };
        if !feature.there && feature.needed {
            missing.push(feature.name);
        }
        println!("{state:<4} {:<28} {}", feature.name, feature.why);
    }
    if !missing.is_empty() {
        bail!("missing: {}", missing.join(", "));
    }
    Ok(())
}

struct Feature {
    name: &'static str,
    there: bool,
    needed: bool,
    why: &'static str,
}

fn features(cpuinfo: &str, machine: &Machine, kvm: bool) -> Vec<Feature> {
    let mut flags: Vec<Vec<&str>> = Vec::new();
    for line in cpuinfo.lines() {
        if let Some((key, words)) = line.split_once(':')
            && key.trim() == "flags"
        {
            flags.push(words.split_whitespace().collect());
        }
    }
    let has = |word| !flags.is_empty() && flags.iter().all(|flags| flags.contains(&word));
    let needed = |name, there, why| Feature { name, there, needed: true, why };
    let helps = |name, there, why| Feature { name, there, needed: false, why };
    vec![
        needed("AMD SVM", has("svm"), "Linux goes on as a guest of the hypervisor"),
        needed("nested paging", has("npt"), "each cell has memory of its own"),
        needed("SVM free", !kvm, "a running virtual machine of KVM would keep the hypervisor out"),
        needed("two processors or more", machine.online_cpus.len() > 1, "a processor belongs to one cell"),
        needed("processor 0", machine.online_cpus.contains(&0), "it stays with Linux"),
        needed("PM timer", machine.pm_timer.is_some(), "cells measure their clocks against it (ACPI table FACP)"),
        needed(
            "I/O interrupt controller",
            !machine.ioapics.is_empty(),
            "its pins are divided between cells (ACPI table APIC)",
        ),
        helps("PCI configuration in memory", machine.mmconfig.is_some(), "extended capabilities (ACPI table MCFG)"),
        helps("x2APIC", has("x2apic"), "a cell's timer and interrupts take no VM exits"),
        helps("decode assists", has("decodeassists"), "fewer instructions are fetched and decoded at VM exits"),
        helps("next RIP", has("nrip_save"), "the same"),
        helps("TLB flush by ASID", has("flushbyasid"), "a flush of one cell leaves the others' translations"),
        helps(
            "invariant TSC",
            has("constant_tsc") && has("nonstop_tsc"),
            "one clock for all processors, at any frequency",
        ),
        helps(
            "IOMMU",
            !machine.iommus.is_empty(),
            "a device passed to a cell could be kept to the cell's memory (not used yet)",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_apart_by_need() {
        let machine = Machine { online_cpus: vec![0, 1], pm_timer: Some(0x608), ..Machine::default() };
        let found = features("flags : svm npt x2apic\nflags : svm npt\n", &machine, false);
        let of = |name| found.iter().find(|feature| feature.name == name).unwrap();
        assert!(of("AMD SVM").there && of("nested paging").there && of("PM timer").there);
        assert!(!of("x2APIC").there && !of("x2APIC").needed, "not on every processor");
        assert!(!of("I/O interrupt controller").there && of("I/O interrupt controller").needed);
        assert!(features("", &machine, true).iter().filter(|feature| feature.needed && !feature.there).count() >= 4);
    }
}
