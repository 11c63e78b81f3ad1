//! PCI functions, from `/sys/bus/pci/devices`: the configuration space and the addresses that Linux gave the BARs.

use std::path::Path;

use super::{MachineError, read};
use crate::units::{Bdf, PciId};

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Which.
    pub index: usize,
    /// Address or port.
    pub address: u64,
    /// Bytes, a power of two.
    pub size: u64,
    /// Memory; else ports.
    pub memory: bool,
    /// 64 bits wide: it takes the next register too.
    pub wide: bool,
}

/// A capability. Extended ones have bit 15 of `id` set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Id.
    pub id: u16,
    /// Offset in configuration space.
    pub start: u16,
    /// Bytes.
    pub len: u16,
}

/// Message-signalled interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Vectors.
    pub vectors: u8,
    /// 64-bit address.
    pub wide: bool,
    /// Vectors can be masked.
    pub maskable: bool,
}

/// Extended message-signalled interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msix {
    /// Vectors.
    pub vectors: u16,
    /// Machine address of the table.
    pub address: u64,
    /// Bytes of table and pending bits, in whole pages.
    pub size: u16,
}

/// A PCI function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Function {
    /// Segment.
    pub domain: u16,
    /// Bus, device, function.
    pub bdf: u16,
    /// Vendor and device number.
    pub id: PciId,
    /// It is a bridge.
    pub bridge: bool,
    /// It has extended configuration space.
    pub extended: bool,
    /// BARs in use.
    pub bars: Vec<Bar>,
    /// Expansion ROM: address, bytes.
    pub rom: Option<(u64, u64)>,
    /// Capabilities.
    pub capabilities: Vec<Capability>,
    /// MSI.
    pub msi: Option<Msi>,
    /// MSI-X.
    pub msix: Option<Msix>,
}

fn byte(config: &[u8], at: u16) -> u8 {
    config.get(usize::from(at)).copied().unwrap_or(0)
}

fn half(config: &[u8], at: u16) -> u16 {
    u16::from_le_bytes([byte(config, at), byte(config, at.wrapping_add(1))])
}

fn word(config: &[u8], at: u16) -> u32 {
    u32::from(half(config, at)) | u32::from(half(config, at.wrapping_add(2))) << 16
}

/// Id of the capability for message-signalled interrupts.
pub const MSI: u16 = 0x05;
const MSIX: u16 = 0x11;

/// Bytes of a capability.
fn capability_len(config: &[u8], id: u16, at: u16) -> u16 {
    match id {
        0x01 => 8,
        MSI => {
            let control = half(config, at + 2);
            10 + if control & 0x80 != 0 { 4 } else { 0 } + if control & 0x100 != 0 { 10 } else { 0 }
        }
        0x09 => u16::from(byte(config, at + 2)).max(3),
        0x0d => 8,
        0x10 if byte(config, at + 2) & 0xf >= 2 => 60,
        0x10 => 20,
        MSIX => 12,
        0x13 => 6,
        _ => 2,
    }
}

fn capabilities(config: &[u8]) -> Vec<Capability> {
    let mut found: Vec<Capability> = Vec::new();
    if half(config, 6) & 0x10 == 0 {
        return found;
    }
    let mut at = u16::from(byte(config, 0x34) & 0xfc);
    while at >= 0x40 && found.iter().all(|cap| cap.start != at) {
        let id = u16::from(byte(config, at));
        let len = capability_len(config, id, at).min(0x100 - at);
        found.push(Capability { id, start: at, len });
        at = u16::from(byte(config, at + 1) & 0xfc);
    }
    found
}

/// BARs and expansion ROM, from the lines of the `resource` file: start, last, flags.
fn bars(text: &str, bridge: bool) -> (Vec<Bar>, Option<(u64, u64)>) {
    const IO: u64 = 0x100;
    const MEMORY: u64 = 0x200;
    const WIDE: u64 = 0x10_0000;
    let mut found = Vec::new();
    let mut rom = None;
    for (index, line) in text.lines().enumerate().take(7) {
        let mut numbers = line.split_whitespace().map(|n| u64::from_str_radix(n.trim_start_matches("0x"), 16));
        let (Some(Ok(start)), Some(Ok(last)), Some(Ok(flags))) = (numbers.next(), numbers.next(), numbers.next())
        else {
            continue;
        };
        let Some(size) = last.checked_sub(start).map(|s| s.saturating_add(1)) else { continue };
        if flags & (IO | MEMORY) == 0 || !size.is_power_of_two() {
            continue;
        }
        if index == 6 {
            rom = (start != 0).then_some((start, size));
        } else if !bridge || index < 2 {
            let memory = flags & MEMORY != 0;
            found.push(Bar { index, address: start, size, memory, wide: flags & WIDE != 0 });
        }
    }
    (found, rom)
}

impl Function {
    /// Reads a function from its configuration space and its `resource` file.
    pub fn parse(domain: u16, bdf: u16, config: &[u8], resource: &str) -> Self {
        let bridge = byte(config, 0x0e) & 0x7f == 1;
        let (bars, rom) = bars(resource, bridge);
        let capabilities = capabilities(config);
        let find = |id| capabilities.iter().find(|cap| cap.id == id).map(|cap| cap.start);
        let msi = find(MSI).map(|at| {
            let control = half(config, at + 2);
            Msi { vectors: 1 << (control >> 1 & 7).min(5), wide: control & 0x80 != 0, maskable: control & 0x100 != 0 }
        });
        let msix = find(MSIX).and_then(|at| {
            let vectors = (half(config, at + 2) & 0x7ff) + 1;
            let (table, pending) = (word(config, at + 4), word(config, at + 8));
            let bar = bars.iter().find(|bar| bar.memory && bar.index == (table & 7) as usize)?;
            let start = u64::from(table & !7);
            let mut end = start + u64::from(vectors) * 16;
            let pending_start = u64::from(pending & !7);
            if pending & 7 == table & 7 && pending_start >= start && pending_start - start < 0x8000 {
                end = end.max(pending_start + u64::from(vectors).div_ceil(64) * 8);
            }
            let size = (end - start).next_multiple_of(4096);
            Some(Msix {
                vectors,
                address: bar.address.checked_add(start)?,
                size: u16::try_from(size).unwrap_or(0xf000),
            })
        });
        let extended = config.len() > 0x100 && word(config, 0x100) != 0 && word(config, 0x100) != u32::MAX;
        let id = PciId { vendor: half(config, 0), device: half(config, 2) };
        Self { domain, bdf, id, bridge, extended, bars, rom, capabilities, msi, msix }
    }
}

/// All functions, by address.
pub fn read_all(root: &Path) -> Result<Vec<Function>, MachineError> {
    let path = "sys/bus/pci/devices";
    let fail = |error| MachineError::Read { path: format!("/{path}"), error };
    let mut functions = Vec::new();
    for entry in std::fs::read_dir(root.join(path)).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
        let Some((domain, bdf)) = name.split_once(':') else { continue };
        // Functions behind a software host bridge (domain above ffff) are no hardware of ours.
        let (Ok(domain), Ok(bdf)) = (u16::from_str_radix(domain, 16), bdf.parse::<Bdf>()) else { continue };
        let config = read(root, &format!("{path}/{name}/config"))?;
        let resource = read(root, &format!("{path}/{name}/resource"))?;
        functions.push(Function::parse(domain, bdf.0, &config, &String::from_utf8_lossy(&resource)));
    }
    functions.sort_by_key(|f| (f.domain, f.bdf));
    Ok(functions)
}
