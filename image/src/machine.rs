//! The machine as the running Linux describes it: what the root cell must keep.
//!
//! Everything here is read from text and tables that Linux offers (`/proc`, `/sys`); nothing is probed.
//! [`Machine::read`] takes the root of the file system, so that a stored description serves as well as a live one.

use std::path::Path;

use hypervisor_abi::config::ConfigError;

use crate::units::Bdf;

mod acpi;
mod pci;

pub use pci::{Bar, Capability, Function, Msi, Msix};

/// A range of the machine's physical addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Linux uses it as memory.
    pub is_ram: bool,
    /// It holds registers: not executable.
    pub is_device: bool,
    /// What Linux calls it.
    pub name: String,
}

/// An interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Address of its registers.
    pub address: u64,
    /// Pins.
    pub pins: u32,
}

/// A machine.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Processors that Linux runs on.
    pub online_cpus: Vec<u32>,
    /// Memory and fixed registers; PCI windows are left out, the functions' BARs are in `functions`.
    pub memory: Vec<Resource>,
    /// PCI functions.
    pub functions: Vec<Function>,
    /// Interrupt controllers.
    pub ioapics: Vec<IoApic>,
    /// Address of the local interrupt controller.
    pub local_apic: u64,
    /// Memory-mapped configuration space: base, last bus.
    pub mmconfig: Option<(u64, u8)>,
    /// Port of the power management timer.
    pub pm_timer: Option<u16>,
    /// IOMMU units.
    pub iommus: Vec<Iommu>,
}

/// An IOMMU unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Iommu {
    /// AMD-Vi, with what its table says of it; else VT-d.
    pub amd: Option<AmdIommu>,
    /// Address of its registers.
    pub base: u64,
    /// Bytes of its registers.
    pub size: u32,
}

/// What an AMD-Vi unit has beside its registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AmdIommu {
    /// Its PCI function.
    pub bdf: u16,
    /// Offset of its capability.
    pub capability: u8,
    /// Offset of its MSI capability.
    pub msi: u8,
    /// Feature word of the table.
    pub features: u32,
}

/// Why a machine gives no configuration.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Something that describes the machine cannot be read.
    #[error("cannot read {path}: {error}; this needs root, and /proc and /sys mounted")]
    Read {
        /// What.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// Something that describes the machine makes no sense.
    #[error("{path}, line {line}: not understood: \"{text}\"")]
    Text {
        /// Which file.
        path: String,
        /// Which line.
        line: usize,
        /// What is there.
        text: String,
    },
    /// Linux hides the addresses.
    #[error("/proc/iomem shows no addresses: run this as root")]
    Hidden,
    /// Linux uses memory that the system needs.
    #[error(
        "Linux uses memory at {start:#x}-{end:#x} that this system needs: boot Linux with memmap={megabytes}M${start:#x} (in a boot loader's file the $ may need a backslash)"
    )]
    NotReserved {
        /// First address needed.
        start: u64,
        /// End of what is needed.
        end: u64,
        /// Megabytes to reserve.
        megabytes: u64,
    },
    /// There is no memory where the system needs some.
    #[error("this machine has no memory at {address:#x}: choose other physical addresses in the manifest")]
    NoMemory {
        /// First address without.
        address: u64,
    },
    /// A PCI address is taken.
    #[error("PCI address {bdf} of [ivshmem.{name}] is in use on this machine: choose a free one in the manifest")]
    PciAddress {
        /// The shared memory device.
        name: String,
        /// The address.
        bdf: Bdf,
    },
    /// A PCI function is not what the manifest says.
    #[error("[pci.{name}] {what}: correct the manifest, with what lspci -vv shows")]
    Pci {
        /// Its name.
        name: String,
        /// What is otherwise.
        what: String,
    },
    /// Too few processors.
    #[error(
        "{have} processors are online and the cell needs {need} beside processor 0: bring more online, or lower cpus in [cell]"
    )]
    Cpus {
        /// Online.
        have: usize,
        /// Wanted by the cell.
        need: u32,
    },
    /// The configuration cannot be written.
    #[error("the root cell's configuration cannot be written: {0}")]
    Config(#[from] ConfigError),
}

pub(crate) fn read(root: &Path, path: &str) -> Result<Vec<u8>, MachineError> {
    std::fs::read(root.join(path)).map_err(|error| MachineError::Read { path: format!("/{path}"), error })
}

fn read_text(root: &Path, path: &str) -> Result<String, MachineError> {
    Ok(String::from_utf8_lossy(&read(root, path)?).into_owned())
}

/// Reads a list such as `0-2,5`.
pub fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= 32768 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// What to do with a line of `/proc/iomem`.
fn classify(name: &str, start: u64) -> Option<(bool, bool)> {
    match name {
        "System RAM" => Some((true, false)),
        // HyperTransport's own addresses on AMD processors: nothing can be there.
        "Reserved" if start == 0xfd_0000_0000 => None,
        // Trapped by the hypervisor, or made up by it.
        _ if name.starts_with("IOAPIC") || name == "Local APIC" || name.starts_with("PCI MMCONFIG") => None,
        // A window, of which only what devices use is given; but the old video and option ROM areas are not BARs.
        _ if name.starts_with("PCI Bus") || name.starts_with("PCI ECAM") => {
            (start < 0x10_0000).then_some((false, true))
        }
        _ if name == "Reserved"
            || name.starts_with("ACPI")
            || name.ends_with("ROM")
            || name.starts_with("Unknown")
            || name.starts_with("Persistent Memory")
            || name.starts_with("Soft Reserved") =>
        {
            Some((false, false))
        }
        _ => Some((false, true)),
    }
}

/// Reads `/proc/iomem`. Only what is on the outer level counts, and inside a PCI window nothing does.
pub fn parse_iomem(text: &str) -> Result<Vec<Resource>, MachineError> {
    let mut resources = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let bad = || MachineError::Text { path: "/proc/iomem".to_owned(), line: index + 1, text: line.to_owned() };
        if line.trim().is_empty() || line.starts_with(' ') {
            continue;
        }
        let (range, name) = line.split_once(" : ").ok_or_else(bad)?;
        let (start, last) = range.trim().split_once('-').ok_or_else(bad)?;
        let start = u64::from_str_radix(start, 16).map_err(|_| bad())?;
        let last = u64::from_str_radix(last, 16).map_err(|_| bad())?;
        let size = last.checked_sub(start).and_then(|s| s.checked_add(1)).ok_or_else(bad)?;
        if let Some((is_ram, is_device)) = classify(name, start) {
            resources.push(Resource { start, size, is_ram, is_device, name: name.to_owned() });
        }
    }
    if resources.iter().all(|r| r.start == 0) {
        return Err(MachineError::Hidden);
    }
    Ok(resources)
}

impl Machine {
    /// Reads the description of the machine under `root` (`/` for the one we run on).
    pub fn read(root: &Path) -> Result<Self, MachineError> {
        let online = read_text(root, "sys/devices/system/cpu/online")?;
        let online_cpus = parse_cpu_list(&online).ok_or_else(|| MachineError::Text {
            path: "/sys/devices/system/cpu/online".to_owned(),
            line: 1,
            text: online.trim().to_owned(),
        })?;
        let memory = parse_iomem(&read_text(root, "proc/iomem")?)?;
        let madt = acpi::Madt::parse(&read(root, "sys/firmware/acpi/tables/APIC")?);
        let mmconfig = read(root, "sys/firmware/acpi/tables/MCFG").ok().and_then(|table| acpi::mmconfig(&table));
        let pm_timer = read(root, "sys/firmware/acpi/tables/FACP").ok().and_then(|table| acpi::pm_timer(&table));
        let functions = pci::read_all(root)?;
        let mut iommus = Vec::new();
        if let Ok(table) = read(root, "sys/firmware/acpi/tables/DMAR") {
            iommus.extend(acpi::vtd_units(&table));
        }
        if let Ok(table) = read(root, "sys/firmware/acpi/tables/IVRS") {
            iommus.extend(acpi::amd_units(&table));
        }
        for unit in iommus.iter_mut().filter_map(|unit| unit.amd.as_mut()) {
            let own = functions.iter().find(|function| function.domain == 0 && function.bdf == unit.bdf);
            let msi = own.and_then(|function| function.capabilities.iter().find(|cap| cap.id == pci::MSI));
            unit.msi = msi.map_or(0, |cap| cap.start as u8);
        }
        Ok(Self {
            online_cpus,
            memory,
            functions,
            iommus,
            ioapics: madt.ioapics,
            local_apic: madt.local_apic,
            mmconfig,
            pm_timer,
        })
    }

    /// Takes `start..end` from Linux, as booting it with `memmap=` would. Whether it was so already.
    pub fn reserve(&mut self, start: u64, end: u64) -> Result<bool, MachineError> {
        let covers = |address: u64| {
            let resources = self.memory.iter().filter(|r| !r.is_device && r.start <= address);
            resources.map(|r| r.start.saturating_add(r.size)).filter(|end| *end > address).max()
        };
        let mut at = start;
        while at < end {
            at = covers(at).ok_or(MachineError::NoMemory { address: at })?;
        }
        let (mut kept, mut was_reserved) = (Vec::new(), true);
        for resource in self.memory.drain(..) {
            let last = resource.start.saturating_add(resource.size);
            if !resource.is_ram || resource.start >= end || last <= start {
                kept.push(resource);
                continue;
            }
            was_reserved = false;
            let (from, to) = (resource.start.max(start), last.min(end));
            for (start, end, is_ram) in [(resource.start, from, true), (from, to, false), (to, last, true)] {
                if start < end {
                    kept.push(Resource { start, size: end - start, is_ram, ..resource.clone() });
                }
            }
        }
        self.memory = kept;
        Ok(was_reserved)
    }
}

#[cfg(test)]
mod tests;
