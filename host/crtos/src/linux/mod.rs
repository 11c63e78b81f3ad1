//! Another Linux in a cell of its own, as `crtos cell linux` starts it: which bytes go where in the cell's memory.
//!
//! The kernel must be built for it (`CONFIG_JAILHOUSE_GUEST`): a cell has no firmware, so all that the kernel would ask it is in the
//! boot parameters. Everything here is computed from files; what only the cell's processors know, [`loader`] adds when they start.
//!
//! | from the reset address on | |
//! |---|---|
//! | 0 | [`loader`] |
//! | 0x1000 | page tables: the first 4 GiB at their own addresses |
//! | 0x7000 | [`parameters`]: boot parameters, a page; behind them what a cell adds; at 0x8200 the command line |
//!
//! The kernel lies where it prefers to be, or in the first memory that has room for it if it can be moved; the initial file system at the end of
//! the highest memory that it can be in.

mod kernel;
mod loader;
mod parameters;

use anyhow::{Context, Result, bail};
use hypervisor_abi::config::{CellConfig, Memory, MemoryFlags};

use kernel::Kernel;

const PAGE: u64 = 4096;
/// Room for loader, tables and parameters.
const LOW_SIZE: u64 = 0x9000;
const PAGE_TABLES: u64 = 0x1000;
const PARAMETERS: u64 = 0x7000;
/// What the page tables map.
const MAPPED: u64 = 1 << 32;

/// Bytes, and their address in the cell.
pub type Image = (Vec<u8>, u64);

/// What is to be started.
pub struct Guest<'a> {
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// The initial file system.
    pub initrd: Option<&'a [u8]>,
    /// The kernel's command line.
    pub command_line: &'a str,
}

/// Memory that a guest uses as its own: neither shared nor a device's.
fn is_ram(region: &Memory) -> bool {
    let has = MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::EXECUTE | MemoryFlags::DMA;
    let has_not = MemoryFlags::IO | MemoryFlags::COMM_REGION | MemoryFlags::ROOTSHARED;
    region.flags().contains(has) && !region.flags().intersects(has_not)
}

/// Ranges of memory that can be loaded and that the page tables map: start and end. Neighbours are not one: an image goes into one.
fn loadable(cell: &CellConfig<'_>) -> Vec<(u64, u64)> {
    let regions =
        cell.memory().iter().filter(|region| is_ram(region) && region.flags().contains(MemoryFlags::LOADABLE));
    let ends =
        regions.map(|region| (region.virt_start(), region.virt_start().saturating_add(region.size()).min(MAPPED)));
    let mut ranges: Vec<_> = ends.filter(|(start, end)| start < end).collect();
    ranges.sort_unstable();
    ranges
}

fn align_up(address: u64, to: u64) -> u64 {
    address.div_ceil(to).saturating_mul(to)
}

/// Where the kernel goes.
fn place_kernel(kernel: &Kernel<'_>, ranges: &[(u64, u64)], low: (u64, u64)) -> Option<u64> {
    let fits = |at: u64| {
        let end = at.checked_add(kernel.memory)?;
        let inside = ranges.iter().any(|&(start, stop)| start <= at && end <= stop);
        (inside && (end <= low.0 || low.1 <= at)).then_some(at)
    };
    let moved = || {
        let starts = ranges.iter().flat_map(|&(start, _)| [start, start.max(low.1)]);
        // Below the place that it prefers it would move itself there.
        starts.map(|start| align_up(start.max(kernel.preferred), kernel.alignment)).find_map(fits)
    };
    fits(kernel.preferred).or_else(|| if kernel.relocatable { moved() } else { None })
}

/// The highest place for so many bytes below `limit` that is in none of `taken`.
fn place_initrd(size: u64, limit: u64, ranges: &[(u64, u64)], taken: &[(u64, u64)]) -> Option<u64> {
    let below = |start: u64, end: u64| {
        let at = end.checked_sub(size)? & !(PAGE - 1);
        (at >= start && taken.iter().all(|&(from, to)| at + size <= from || to <= at)).then_some(at)
    };
    let ends = |&(start, end): &(u64, u64)| {
        let edges = taken.iter().map(|&(from, _)| from).filter(move |from| (start..end).contains(from));
        edges.chain([end]).map(move |edge| (start, edge.min(limit)))
    };
    ranges.iter().flat_map(ends).filter_map(|(start, end)| below(start, end)).max()
}

/// Everything that is to be loaded into the cell before it starts.
pub fn images(cell: &CellConfig<'_>, guest: &Guest<'_>) -> Result<Vec<Image>> {
    let kernel = Kernel::parse(guest.kernel)?;
    let comm = cell.comm_region().context("the cell has no communication region")?.virt_start();
    let base = cell.cpu_reset_address();
    let ranges = loadable(cell);
    let low = (base, base.saturating_add(LOW_SIZE));
    if !base.is_multiple_of(PAGE) || !ranges.iter().any(|&(start, end)| start <= low.0 && low.1 <= end) {
        bail!("there are no {} KiB of loadable memory at the reset address {base:#x}", LOW_SIZE >> 10);
    }
    let at = place_kernel(&kernel, &ranges, low).with_context(|| {
        format!(
            "the kernel needs {} MiB of loadable memory in one region below 4 GiB{}",
            kernel.memory.div_ceil(1 << 20),
            if kernel.relocatable { String::new() } else { format!(", at {:#x}", kernel.preferred) }
        )
    })?;
    let initrd = match guest.initrd {
        Some(bytes) => {
            let taken = [low, (at, at + kernel.memory)];
            let place = place_initrd(bytes.len() as u64, kernel.initrd_limit, &ranges, &taken);
            Some((place.context("there is no room for the initial file system beside the kernel")?, bytes))
        }
        None => None,
    };
    let parameters = parameters::Parameters {
        cell,
        kernel: &kernel,
        address: base + PARAMETERS,
        initrd: initrd.map(|(at, bytes)| (at as u32, bytes.len() as u32)),
        command_line: guest.command_line,
    };
    let mut low = loader::bytes(base as u32, comm, at + kernel::ENTRY)?;
    low.resize(PAGE_TABLES as usize, 0);
    low.extend(loader::page_tables(base + PAGE_TABLES));
    low.resize(PARAMETERS as usize, 0);
    low.extend(parameters.bytes()?);
    let mut images = vec![(low, base), (kernel.code.to_vec(), at)];
    images.extend(initrd.map(|(at, bytes)| (bytes.to_vec(), at)));
    Ok(images)
}

#[cfg(test)]
mod tests;
