//! The PCI functions of the manifest: set up before anyone starts.

use super::memory::Memory;
use super::{Say, window};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use init::layout::Piece;
use init::pci::{self, ConfigSpace, MsixTable};
use ipc::blob::{Device, System};
use ipc::image::range_kind;
use ipc::slots::boot;
use rt::calls::irq::Width;
use rt::{Cap, IoPort, Irq, log};

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
const PORTS: Cap<IoPort> = Cap::new(boot::IO_PORT);
const INTERRUPTS: Cap<Irq> = Cap::new(boot::IRQ);

/// Configuration space by ports.
struct Ports;

impl ConfigSpace for Ports {
    fn read(&mut self, bdf: u16, offset: u8) -> u32 {
        // A failing port call reads as an absent function.
        let selected = PORTS.write(ADDRESS_PORT, Width::Long, pci::address(bdf, offset));
        selected.and_then(|()| PORTS.read(DATA_PORT, Width::Long)).unwrap_or(u32::MAX)
    }

    fn write(&mut self, bdf: u16, offset: u8, value: u32) {
        // Whoever writes reads back what matters.
        let _ = PORTS
            .write(ADDRESS_PORT, Width::Long, pci::address(bdf, offset))
            .and_then(|()| PORTS.write(DATA_PORT, Width::Long, value));
    }
}

/// A device that is there.
pub struct Function {
    table: Option<MsixTable>,
    /// Its interrupts, by MSI-X entry.
    pub interrupts: Vec<Cap<Irq>>,
}

/// Finds and places the functions; `None` for those that are absent.
pub fn place(system: &System) -> Result<Vec<Option<Function>>, String> {
    let place = |device: &Device| -> Result<Option<Function>, String> {
        if !pci::present(&mut Ports, device)? {
            log!("device {}: nothing at {}, its grants stay empty", device.name, Bdf(device.bdf));
            return Ok(None);
        }
        let table = pci::place(&mut Ports, device)?;
        Ok(Some(Function { table, interrupts: Vec::new() }))
    };
    system
        .devices
        .iter()
        .map(|device| place(device).map_err(|reason| format!("device {}: {reason}", device.name)))
        .collect()
}

/// The registers that init itself must reach: the MSI-X tables.
pub fn pieces(functions: &[Option<Function>]) -> impl Iterator<Item = Piece> {
    functions.iter().flatten().filter_map(|function| function.table).map(|table| Piece {
        physical: table.physical & !0xfff,
        size: 4096,
        kind: range_kind::DEVICE,
    })
}

/// Makes the interrupts, programs them into the MSI-X tables and enables them.
pub fn enable(system: &System, functions: &mut [Option<Function>], memory: &mut Memory) -> Result<(), String> {
    for (device, function) in system.devices.iter().zip(functions) {
        let outcome = match function {
            Some(Function { table: Some(table), interrupts }) => enable_one(device, table, interrupts, memory),
            Some(Function { interrupts, .. }) if device.msi && device.vectors > 0 => {
                enable_message(device, interrupts, memory)
            }
            _ => Ok(()),
        };
        outcome.map_err(|reason| format!("device {}: {reason}", device.name))?;
    }
    Ok(())
}

fn enable_message(device: &Device, interrupts: &mut Vec<Cap<Irq>>, memory: &mut Memory) -> Result<(), String> {
    let interrupt = INTERRUPTS.derive_message(memory.slot()?).say("an interrupt")?;
    let (address, data) = interrupt.message().say("an interrupt's message")?;
    interrupts.push(interrupt);
    pci::enable_msi(&mut Ports, device, address, data)
}

fn enable_one(
    device: &Device,
    table: &MsixTable,
    interrupts: &mut Vec<Cap<Irq>>,
    memory: &mut Memory,
) -> Result<(), String> {
    let mut entries = Vec::new();
    for _ in 0..device.vectors {
        let slot = memory.slot()?;
        let interrupt = INTERRUPTS.derive_message(slot).say("an interrupt")?;
        let (address, data) = interrupt.message().say("an interrupt's message")?;
        entries.push(pci::msix_entry(address, data));
        interrupts.push(interrupt);
    }
    let (frame, page) = memory.fixed(table.physical).ok_or("no frame for the MSI-X table")?;
    let start = (table.physical % 4096) as usize;
    if start + entries.len() * 16 > 4096 {
        return Err("its MSI-X table crosses a page".into());
    }
    window::with_device(frame, page, |registers| {
        for (index, entry) in entries.iter().enumerate() {
            for (word, value) in entry.iter().enumerate() {
                registers.write(start + index * 16 + word * 4, *value);
            }
        }
    })?;
    pci::enable(&mut Ports, device, table)
}

/// Bus, device and function, as everybody writes them.
struct Bdf(u16);

impl core::fmt::Display for Bdf {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.0 >> 8, self.0 >> 3 & 0x1f, self.0 & 7)
    }
}
