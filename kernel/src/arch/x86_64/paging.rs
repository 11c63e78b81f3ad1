//! The kernel's half of every address space: the image by section (never both writable and executable), the direct map of RAM, devices.
#![allow(unsafe_code)] // Builds and loads page tables.

use super::cpu::{self, Exclusive};
use crate::memory::{DIRECT_MAP, Page};
use crate::object::page_entry::bits;
use core::cell::{Cell, UnsafeCell};
use ipc::image::{ImageHeader, LOAD_ADDRESS, range_kind};

const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
const LARGE: u64 = 2 << 20;
const TABLES: usize = 64;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

static ARENA: Exclusive<[Table; TABLES]> = Exclusive([const { Table(UnsafeCell::new([0; 512])) }; TABLES]);
static USED: Exclusive<Cell<usize>> = Exclusive(Cell::new(0));

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __kernel_end: u8;
}

/// Devices of the kernel, each at an address of its own.
#[derive(Clone, Copy)]
pub enum Device {
    /// Local APIC.
    Apic = 0,
    /// IOAPIC.
    IoApic = 1,
    /// Communication region of a cell.
    CommRegion = 2,
}

const DEVICES: u64 = 0xffff_ffff_c000_0000;

fn physical(table: &Table) -> u64 {
    table.0.get().expose_provenance() as u64 - KERNEL_BASE
}

fn new_table() -> &'static Table {
    let index = USED.0.get();
    USED.0.set(index + 1);
    ARENA.0.get(index).unwrap_or_else(|| panic!("the memory map needs more than {TABLES} kernel tables"))
}

fn table_at(entry: u64) -> &'static Table {
    let index = ((entry & bits::ADDRESS) - physical(&ARENA.0[0])) / 4096;
    &ARENA.0[index as usize]
}

fn entry(table: &Table, index: u64) -> u64 {
    // SAFETY: the index is masked; single-threaded.
    unsafe { (*table.0.get())[(index & 511) as usize] }
}

fn set_entry(table: &Table, index: u64, value: u64) {
    // SAFETY: the index is masked; single-threaded.
    unsafe { (*table.0.get())[(index & 511) as usize] = value }
}

fn map(address: u64, physical_address: u64, flags: u64, large: bool) {
    let mut table = &ARENA.0[0];
    let last = if large { 1 } else { 0 };
    for level in (last + 1..4).rev() {
        let index = address >> (12 + 9 * level);
        if entry(table, index) & bits::PRESENT == 0 {
            set_entry(table, index, physical(new_table()) | bits::PRESENT | bits::WRITE);
        }
        table = table_at(entry(table, index));
    }
    set_entry(
        table,
        address >> (12 + 9 * last),
        physical_address | flags | bits::PRESENT | if large { bits::LARGE } else { 0 },
    );
}

/// Maps RAM into the direct map.
fn direct(mut start: u64, end: u64) {
    let flags = bits::WRITE | bits::NO_EXECUTE | bits::GLOBAL;
    while start < end {
        let large = start.is_multiple_of(LARGE) && end - start >= LARGE;
        map(DIRECT_MAP + start, start, flags, large);
        start += if large { LARGE } else { 4096 };
    }
}

/// Builds the kernel's tables and loads them.
pub fn set_up(header: &ImageHeader) {
    let root = new_table();
    let address = |symbol: *const u8| symbol.expose_provenance() as u64;
    let (text, text_end) = (address(&raw const __text_start), address(&raw const __text_end));
    let (rodata_end, end) = (address(&raw const __rodata_end), address(&raw const __kernel_end));
    let sections = [
        (text, text_end, bits::GLOBAL),
        (text_end, rodata_end, bits::GLOBAL | bits::NO_EXECUTE),
        (rodata_end, end, bits::GLOBAL | bits::NO_EXECUTE | bits::WRITE),
    ];
    for (start, end, flags) in sections {
        for page in (start..end).step_by(4096) {
            map(page, page - KERNEL_BASE, flags, false);
        }
    }
    // The head of the image, for reading.
    map(KERNEL_BASE + LOAD_ADDRESS, LOAD_ADDRESS, bits::NO_EXECUTE | bits::GLOBAL, false);
    let kernel_end = end - KERNEL_BASE;
    for range in &header.ranges[..header.range_count as usize] {
        if range.kind != range_kind::PRIVATE && range.kind != range_kind::SHARED {
            continue;
        }
        let range_end = range.start.saturating_add(range.size);
        if range.start % 4096 != 0 || range.size % 4096 != 0 || range_end > 1 << 39 {
            panic!("memory range {:#x}+{:#x} is misaligned or too far up", range.start, range.size);
        }
        // The kernel's own image is not in the direct map: its text would be writable there.
        if range.start < kernel_end && range_end > LOAD_ADDRESS {
            direct(range.start, LOAD_ADDRESS.max(range.start));
            direct(kernel_end, range_end);
        } else {
            direct(range.start, range_end);
        }
    }
    // The kernel's half of the root is copied into each user root, so all tables below it have to exist from now on.
    map(DEVICES + 0x10_0000, 0, 0, false);
    unmap_page(DEVICES + 0x10_0000);
    cpu::load_root(physical(root));
}

fn unmap_page(address: u64) {
    let mut table = &ARENA.0[0];
    for level in (1..4).rev() {
        table = table_at(entry(table, address >> (12 + 9 * level)));
    }
    set_entry(table, address >> 12, 0);
}

/// Maps a page of a device, uncached.
pub fn map_device(physical_address: u64, device: Device) -> u64 {
    let address = DEVICES + 4096 * device as u64;
    let cached = matches!(device, Device::CommRegion);
    let uncached = if cached { 0 } else { bits::UNCACHED };
    map(address, physical_address & !0xfff, bits::WRITE | bits::NO_EXECUTE | bits::GLOBAL | uncached, false);
    address
}

/// The tables that map the kernel alone.
pub fn kernel_root() -> u64 {
    physical(&ARENA.0[0])
}

/// Gives a user root, that is zero, the kernel's half: the direct map and the last entry, with image and devices.
pub fn fill_kernel_half(root: Page) {
    for index in [DIRECT_MAP >> 39 & 511, KERNEL_BASE >> 39 & 511] {
        root.write(index as usize, entry(&ARENA.0[0], index));
    }
}
