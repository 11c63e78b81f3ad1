//! What a cell's CPUs can reach of physical memory.
//!
//! Nested tables are changed only while all CPUs of the cell are suspended, and every one of them is told to flush before it
//! goes on; so no CPU ever uses a mapping after it was taken away.

use hypervisor_abi::config::{CellConfig, Memory, MemoryFlags};
use hypervisor_abi::hypercall::Error;
use spin::Mutex;

use super::host::{self, PoolTables};
use super::paging::{ADDRESS, PageTable, level_size};
use crate::svm::{entry, nested_table};

/// Page of the local APIC's registers.
pub const APIC_PAGE: u64 = 0xfee0_0000;

/// The nested tables of a cell.
pub struct CellMemory {
    table: Mutex<PageTable>,
}

fn no_pages<T>(_: T) -> Error {
    Error::NoMemory
}

impl CellMemory {
    /// Empty tables.
    pub fn new() -> Result<Self, Error> {
        let root = host::take_pages(1, 1)?;
        Ok(Self { table: Mutex::new(nested_table(root, host::levels())) })
    }

    /// Physical address of the root.
    pub fn root(&self) -> u64 {
        self.table.lock().root
    }

    /// Gives the tables back. No CPU may use them any more.
    pub fn destroy(&self) {
        let table = *self.table.lock();
        table.destroy(&mut PoolTables);
    }

    /// Maps `size` bytes.
    pub fn map(&self, virt: u64, phys: u64, size: u64, flags: MemoryFlags) -> Result<(), Error> {
        let bits = entry::bits(flags);
        if bits == 0 {
            return self.unmap(virt, size);
        }
        let small = flags.contains(MemoryFlags::NO_HUGEPAGES);
        self.table.lock().map(&mut PoolTables, virt, phys, size, bits, small).map_err(no_pages)
    }

    /// Unmaps `size` bytes.
    pub fn unmap(&self, virt: u64, size: u64) -> Result<(), Error> {
        self.table.lock().unmap(&mut PoolTables, virt, size).map_err(no_pages)
    }

    /// Maps a region of a configuration. Sub-page regions are not mapped: accesses are caught and checked one by one.
    pub fn map_region(&self, region: &Memory) -> Result<(), Error> {
        if region.is_subpage() || region.flags().contains(MemoryFlags::COMM_REGION) {
            return Ok(());
        }
        self.map(region.virt_start(), region.phys_start(), region.size(), region.flags())
    }

    /// The registers of the local APIC: reads go to the CPU's own APIC, writes are caught.
    pub fn map_apic(&self) -> Result<(), Error> {
        self.map(APIC_PAGE, APIC_PAGE, 4096, MemoryFlags::READ)
    }

    /// Where a guest-physical address leads, if the cell may read it.
    pub fn translate(&self, address: u64) -> Option<u64> {
        let (level, found) = self.table.lock().lookup(&PoolTables, address);
        let page = level_size(level) - 1;
        found.map(|entry| entry & ADDRESS & !page | address & page)
    }
}

/// Calls `f` with every part of the cell's regions that lies at `size` bytes at guest-physical `virt`: guest-physical address,
/// physical address, size, rights.
pub fn overlapping(
    config: &CellConfig<'_>,
    virt: u64,
    size: u64,
    mut f: impl FnMut(u64, u64, u64, MemoryFlags) -> Result<(), Error>,
) -> Result<(), Error> {
    let end = virt.saturating_add(size);
    let whole = |region: &&Memory| !region.is_subpage() && !region.flags().contains(MemoryFlags::COMM_REGION);
    for region in config.memory().iter().filter(whole) {
        let from = virt.max(region.virt_start());
        let to = end.min(region.virt_start() + region.size());
        if from < to {
            f(from, region.phys_start() + (from - region.virt_start()), to - from, region.flags())?;
        }
    }
    Ok(())
}

/// Calls `f` with every part of `region` (in physical memory) that the root cell's configuration gives to root: its
/// guest-physical address there, physical address, size, and root's rights.
pub fn root_parts(
    root: &CellConfig<'_>,
    region: &Memory,
    mut f: impl FnMut(u64, u64, u64, MemoryFlags) -> Result<(), Error>,
) -> Result<(), Error> {
    let (start, end) = (region.phys_start(), region.phys_start() + region.size());
    for owned in root.memory().iter().filter(|owned| !owned.is_subpage()) {
        let from = start.max(owned.phys_start());
        let to = end.min(owned.phys_start() + owned.size());
        if from < to {
            f(owned.virt_start() + (from - owned.phys_start()), from, to - from, owned.flags())?;
        }
    }
    Ok(())
}
