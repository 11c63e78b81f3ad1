//! `crtos hardware check` and `crtos config …` in the machine that they look at.

use std::fs;

use anyhow::{Context, Result, bail};
use hypervisor_abi::config::OLD_CELL_SIGNATURE;
use zerocopy::little_endian::U32;

use super::inmates::FIRST;
use super::support::same;
use crate::inmate::Inmate;
use crate::suite::{Bench, said};

/// What is needed or helps, and whether the emulated machine has it.
const FEATURES: [(&str, &str); 14] = [
    ("AMD SVM", "yes"),
    ("nested paging", "yes"),
    ("SVM free", "yes"),
    ("two processors or more", "yes"),
    ("processor 0", "yes"),
    ("PM timer", "yes"),
    ("I/O interrupt controller", "yes"),
    ("PCI configuration in memory", "yes"),
    ("x2APIC", "no"),
    ("decode assists", "no"),
    ("next RIP", "no"),
    ("TLB flush by ASID", "no"),
    ("invariant TSC", "no"),
    ("IOMMU", "no"),
];

/// The list's lines: name and state; each says why.
fn features(list: &str) -> Result<Vec<(&str, &str)>> {
    let line = |line| -> Option<(&str, &str)> {
        let (state, rest) = str::split_once(line, ' ')?;
        let (name, why) = rest.trim_start().split_once("  ")?;
        (!why.trim().is_empty()).then_some((name, state))
    };
    list.lines().map(|text| line(text).with_context(|| format!("no state, name and reason: {text}"))).collect()
}

/// A machine that has what is needed.
pub fn hardware_check(bench: &mut Bench<'_>) -> Result<()> {
    let list = bench.ok("crtos hardware check")?;
    same("features", features(&list)?, FEATURES.to_vec())
}

/// A processor without SVM: the list says so, and the message names what is missing.
pub fn hardware_without_svm(bench: &mut Bench<'_>) -> Result<()> {
    let output = bench.sh("crtos hardware check")?;
    let list = String::from_utf8_lossy(&output.stdout);
    same("status", output.status, 1)?;
    let expected = FEATURES.map(|(name, state)| match name {
        "AMD SVM" | "nested paging" => (name, "NO"),
        _ => (name, state),
    });
    same("features", features(&list)?, expected.to_vec())?;
    let message = String::from_utf8_lossy(&output.stderr);
    same("message", message.trim(), "crtos: missing: AMD SVM, nested paging")
}

/// A cell with a link, and ports.
fn cell(name: &'static str, msix_mask: u32) -> Result<Vec<u8>> {
    let mut inmate = Inmate::new(name, &[3], FIRST).linked(0, 2);
    inmate.functions[0].bar_mask[1] = U32::new(msix_mask);
    inmate.config()
}

const SHOWN: &str = r#"cell "new" id 0 cpus 3
  reset 0x100000, message timeout 20000000, console none
  flags virtual_console_permitted
  mem_regions[0] 0x52000000-0x52000fff read rootshared at 0x52000000
  mem_regions[1] 0x52001000-0x52001fff read write rootshared at 0x52001000
  mem_regions[2] 0x52002000-0x52002fff read write rootshared at 0x52002000
  mem_regions[3] 0x52003000-0x52003fff read rootshared at 0x52003000
  mem_regions[4] 0x0-0x3fffff read write execute dma loadable at 0x51000000
  mem_regions[5] 0x4000000-0x4000fff read write communication at 0x0
  pci_devices[0] 00:0d.0 shared memory, peer 0 of 2, protocol 0x4000, 4 regions from mem_regions[0], 2 MSI-X
"#;

/// `crtos config` makes the machine's configuration, and shows, checks and converts those of cells.
pub fn configurations(bench: &mut Bench<'_>) -> Result<()> {
    // What the manifest needs; the machine keeps more.
    same("option for Linux", bench.ok("crtos config create system.cell")?.as_str(), "memmap=338M$0x50000000\n")?;
    let system = bench.ok("crtos config show system.cell")?;
    for words in [
        "system: hypervisor memory 0x1000000 bytes at 0x50000000",
        "PCI configuration space at 0xb0000000",
        "PM timer port 0x608",
        "cpus 0,1,2,3\n",
    ] {
        if !system.contains(words) {
            bail!("crtos config show does not say \"{words}\":\n{system}");
        }
    }
    let file = |bench: &Bench<'_>, name: &str, bytes: &[u8]| fs::write(bench.scratch.join(name), bytes);
    let new = cell("new", 0xffff_f000)?;
    file(bench, "new.cell", &new)?;
    same("what is shown", bench.ok("crtos config show new.cell")?.as_str(), SHOWN)?;

    // As Jailhouse 0.12 wrote it: another signature and revision, and a smaller window for MSI-X.
    let mut old = cell("new", 0xffff_fe00)?;
    old[..6].copy_from_slice(&OLD_CELL_SIGNATURE);
    old[6..8].copy_from_slice(&12u16.to_le_bytes());
    file(bench, "old.cell", &old)?;
    let shown = bench.ok("crtos config show old.cell")?;
    same("what is shown of revision 12", shown.split_once('\n').map(|(_, rest)| rest), Some(SHOWN))?;
    bench.ok("crtos config convert old.cell converted.cell")?;
    same("converted configuration", fs::read(bench.scratch.join("converted.cell"))?, new)?;
    let good = "no errors, 0 warnings\n";
    same("check", bench.ok("crtos config check system.cell converted.cell")?.as_str(), good)?;

    // What is wrong is named, and nothing is converted twice.
    file(bench, "twice.cell", &cell("other", 0xffff_f000)?)?;
    let output = bench.sh("crtos config check system.cell new.cell twice.cell")?;
    if output.status != 1 || !String::from_utf8_lossy(&output.stdout).contains("twice.cell: error: CPU 3 is in another")
    {
        bail!("two cells with the same processor are not refused:\n{}", said(&output));
    }
    let output = bench.sh("crtos config convert new.cell again.cell")?;
    if output.status != 1 || bench.scratch.join("again.cell").exists() {
        bail!("a new configuration is converted:\n{}", said(&output));
    }
    Ok(())
}
