//! Linux's interrupt remapping: its units are left to it, and messages of emulated devices take the way through its tables.
//!
//! What Linux writes into its tables is not looked at, and can change at any time: while remapping is on, an interrupt of a device of
//! Linux's reaches whichever processor Linux names. Other cells cannot name entries at all.

use hypervisor_abi::config::{IommuKind, SystemConfig};
use spin::Mutex;

use super::machine;
use crate::apic;
use crate::cell::Cell;
use crate::units::icr::Command;
use crate::units::remap::{self, Table};

const GLOBAL_STATUS: u64 = 0x1c;
const REMAPPING_ON: u64 = 1 << 25;
const TABLE_ADDRESS: u64 = 0xb8;
/// As many as a configuration can name.
const UNITS: usize = 8;

static TABLES: Mutex<[Option<Table>; UNITS]> = Mutex::new([None; UNITS]);

/// Finds the tables of the units that remap. Linux sets them up when it boots, and then leaves them where they are.
pub fn init(cpu: u32, system: &SystemConfig<'_>) {
    let mut tables = [None; UNITS];
    for (table, unit) in tables.iter_mut().zip(system.iommu_units()) {
        let read = |register, size| machine::memory_read(cpu, unit.base.get() + register, size);
        if unit.kind.get() == IommuKind::Intel as u32 && read(GLOBAL_STATUS, 4) & REMAPPING_ON != 0 {
            *table = Some(Table::new(read(TABLE_ADDRESS, 8)));
        }
    }
    *TABLES.lock() = tables;
}

/// Whether any unit remaps.
pub fn is_on() -> bool {
    TABLES.lock().iter().any(Option::is_some)
}

/// Whether this is a message that Linux's tables say the target of.
pub fn is_linuxs(cell: &Cell, address: u64) -> bool {
    cell.is_root() && remap::is_remappable(address) && is_on()
}

/// What a message of a device behind unit `iommu` stands for.
pub fn command(cpu: u32, cell: &Cell, iommu: u8, address: u64, data: u32) -> Option<Command> {
    let table = (*TABLES.lock().get(usize::from(iommu))?)?;
    let entry = cell.memory.translate(table.entry(remap::index(address, data))?)?;
    table.command(machine::memory_read(cpu, entry, 8), apic::cell_model(cell))
}
