//! What several suites need.

use anyhow::{Context, Result, anyhow, bail};
use hypervisor_abi::config::{Memory, MemoryFlags, PciDevice, PortRange, SystemConfig};

use super::inmates::ROOT;
use crate::inmate::Inmate;
use crate::random::Random;
use crate::suite::{Bench, said};

/// Fails unless `got` is `wanted`.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<()> {
    if got != wanted {
        bail!("{what}: {got:?} instead of {wanted:?}");
    }
    Ok(())
}

/// Passes a PCI function to a cell: its record and capabilities as the root cell's configuration has them, its BARs as Linux does.
pub fn function(bench: &mut Bench<'_>, bdf: &str, cell: &mut Inmate) -> Result<()> {
    let bytes = std::fs::read(bench.scratch.join(ROOT))?;
    let system = SystemConfig::parse(&bytes).map_err(|error| anyhow!("{error}"))?;
    let root = system.root_cell();
    let numbers: Vec<u16> =
        bdf.split([':', '.']).map(|part| u16::from_str_radix(part, 16)).collect::<Result<_, _>>()?;
    let [_, bus, device, number] = numbers[..] else { bail!("{bdf} is no PCI address") };
    let wanted = bus << 8 | device << 3 | number;
    let record = root.pci_devices().iter().find(|record| record.bdf() == wanted).context("no such function")?;
    let start = cell.capabilities.len() as u16;
    // Without the room between capabilities, which Linux has too.
    cell.capabilities.extend(root.caps_of(record).iter().filter(|cap| cap.id.get() != 0));
    let num_caps = (cell.capabilities.len() as u16 - start).into();
    cell.functions.push(PciDevice { caps_start: start.into(), num_caps, ..*record });
    let table = record.msix_address.get() & !0xfff;
    let flags = MemoryFlags::READ | MemoryFlags::WRITE;
    for line in bench.ok(&format!("head -n 6 /sys/bus/pci/devices/{bdf}/resource"))?.lines() {
        let words: Vec<u64> = line
            .split_whitespace()
            .map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16))
            .collect::<Result<_, _>>()?;
        let [first, last, kind] = words[..] else { bail!("a resource in three words: {line}") };
        const PORTS: u64 = 0x100;
        match kind {
            0 => {}
            _ if kind & PORTS != 0 => cell.ports.push(PortRange::new(first as u16, (last - first + 1) as u16)),
            // Page by page: the one with the MSI-X table is the hypervisor's.
            _ => cell.regions.extend(
                (first & !0xfff..=last)
                    .step_by(4096)
                    .filter(|page| *page != table || record.num_msix_vectors.get() == 0)
                    .map(|page| Memory::new(page, page, 4096, flags)),
            ),
        }
    }
    Ok(())
}

/// Bytes without a pattern, the same in every run.
pub fn noise(length: usize) -> Vec<u8> {
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.word().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Runs `argv` in the real-time realm.
pub fn crtos_run(bench: &mut Bench<'_>, argv: &[&str], input: &[u8]) -> Result<crate::vm::Output> {
    let mut all = vec!["crtos", "run"];
    all.extend(argv);
    bench.run(&all, input)
}

/// Counters of what programs and restarts take: slots, processes, pages, capabilities.
pub fn in_use(bench: &mut Bench<'_>) -> Result<Vec<String>> {
    const NAMES: [&str; 10] = [
        "shadow.slots ",
        "shadow.processes ",
        "shadow.pages_mapped ",
        "shadow.pages_pinned ",
        "realtime.pool_free ",
        "realtime.pool_quarantine ",
        "realtime.mirror_nodes ",
        "realtime.processes ",
        "realtime.free_capabilities ",
        "supervisor.free_capabilities ",
    ];
    let stats = bench.ok("crtos cell stats")?;
    let lines: Vec<String> =
        stats.lines().filter(|line| NAMES.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect();
    if lines.len() != NAMES.len() {
        bail!("crtos cell stats lacks some of {NAMES:?}:\n{stats}");
    }
    Ok(lines)
}

/// A program of ours where the machine sees it.
pub fn program(bench: &Bench<'_>, name: &str) -> Result<String> {
    let copy = bench.scratch.join(name);
    std::fs::copy(bench.builder.program(name)?, &copy)?;
    Ok(copy.display().to_string())
}

/// Runs `argv` in Linux and in the real-time realm: output, messages and status must be the same.
pub fn as_native(bench: &mut Bench<'_>, argv: &[&str], input: &[u8]) -> Result<()> {
    let native = bench.run(argv, input)?;
    let ours = crtos_run(bench, argv, input)?;
    if ours.status != native.status {
        bail!("{argv:?}: status {} instead of {}\n{}", ours.status, native.status, said(&ours));
    }
    if ours.stdout != native.stdout {
        bail!("{argv:?}: other output than natively\nnative {}\nours {}", said(&native), said(&ours));
    }
    if ours.stderr != native.stderr {
        bail!("{argv:?}: other messages than natively\nnative {}\nours {}", said(&native), said(&ours));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_its_length_and_repeats() {
        assert_eq!(noise(1001).len(), 1001);
        assert_eq!(noise(64), noise(64));
        assert_ne!(noise(64)[..32], noise(64)[32..]);
    }
}
