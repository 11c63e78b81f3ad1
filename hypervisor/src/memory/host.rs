//! The hypervisor's own memory: the pool, its address space, and short views of guest memory.
//!
//! The address space holds the image (code executable, never writable), the per-CPU areas without their stack guards, the pool,
//! device registers, and one window a CPU through which single pages of guests are looked at. Guest memory is mapped nowhere else.
#![allow(unsafe_code)] // Table pages and windows are raw memory.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hypervisor_abi::hypercall::Error;
use spin::Mutex;

use super::paging::{PageTable, Tables};
use super::pool::Pool;
use crate::{percpu, say};

/// Where the hypervisor memory is mapped.
pub const BASE: u64 = 0xffff_ffff_f000_0000;
/// Where device registers are mapped.
const DEVICES: u64 = 0xffff_ff80_0000_0000;
/// Where the windows are.
const WINDOWS: u64 = 0xffff_ff00_0000_0000;
/// Pages of a CPU's window.
const WINDOW_PAGES: u64 = 16;
const PAGE: u64 = 4096;

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const UNCACHED: u64 = 0x18;
const NO_EXECUTE: u64 = 1 << 63;
const DATA: u64 = PRESENT | WRITE | NO_EXECUTE;

static POOL: Mutex<Pool> = Mutex::new(Pool::empty());
static PHYS: AtomicU64 = AtomicU64::new(0);
static SIZE: AtomicU64 = AtomicU64::new(0);
static POOL_START: AtomicU64 = AtomicU64::new(0);
static ROOT: AtomicU64 = AtomicU64::new(0);
static LEVELS: AtomicU32 = AtomicU32::new(4);
static NEXT_DEVICE: AtomicU64 = AtomicU64::new(DEVICES);

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
}

/// Tells where the hypervisor memory is, and which part of it is free. Called once, first.
pub fn init_pool(phys: u64, size: u64, used: u64, reserved_end: u64, levels: u32) {
    PHYS.store(phys, Ordering::Relaxed);
    SIZE.store(size, Ordering::Relaxed);
    POOL_START.store(phys + used, Ordering::Relaxed);
    LEVELS.store(levels, Ordering::Relaxed);
    NEXT_DEVICE.store(DEVICES, Ordering::Relaxed);
    let pages = size.saturating_sub(used + reserved_end) / PAGE;
    POOL.lock().reset(pages as usize);
}

/// Start and size of the hypervisor memory.
#[must_use]
pub fn extent() -> (u64, u64) {
    (PHYS.load(Ordering::Relaxed), SIZE.load(Ordering::Relaxed))
}

/// Paging levels in use.
#[must_use]
pub fn levels() -> u32 {
    LEVELS.load(Ordering::Relaxed)
}

/// Pages of the pool, and how many are used.
#[must_use]
pub fn pool_figures() -> (usize, usize) {
    let pool = POOL.lock();
    (pool.pages(), pool.used())
}

/// Takes `count` adjacent zeroed pages; their physical address.
pub fn take_pages(count: usize, align: usize) -> Result<u64, Error> {
    let page = POOL.lock().take(count, align).ok_or(Error::NoMemory)?;
    let phys = POOL_START.load(Ordering::Relaxed) + page as u64 * PAGE;
    // SAFETY: the pages are in the pool, mapped, and nobody else's.
    unsafe { core::ptr::write_bytes(pointer(phys), 0, count * PAGE as usize) };
    Ok(phys)
}

/// Gives pages back.
pub fn give_pages(phys: u64, count: usize) {
    let page = (phys - POOL_START.load(Ordering::Relaxed)) / PAGE;
    POOL.lock().give(page as usize, count);
}

/// Address of hypervisor memory at `phys`.
#[must_use]
pub fn pointer(phys: u64) -> *mut u8 {
    (phys - PHYS.load(Ordering::Relaxed) + BASE) as *mut u8
}

/// Physical address of hypervisor memory at `address`.
#[must_use]
pub fn physical(address: u64) -> u64 {
    address - BASE + PHYS.load(Ordering::Relaxed)
}

/// Table pages out of the pool.
pub struct PoolTables;

impl PoolTables {
    fn slot(table: u64, index: usize) -> *mut u64 {
        pointer(table).cast::<u64>().wrapping_add(index)
    }
}

impl Tables for PoolTables {
    fn read(&self, table: u64, index: usize) -> u64 {
        // SAFETY: tables are pages of the pool; CPUs read them and set accessed bits at the same time, hence volatile.
        unsafe { Self::slot(table, index).read_volatile() }
    }

    fn write(&mut self, table: u64, index: usize, value: u64) {
        // SAFETY: as above; an aligned 8-byte store is seen whole.
        unsafe { Self::slot(table, index).write_volatile(value) }
    }

    fn take(&mut self) -> Option<u64> {
        take_pages(1, 1).ok()
    }

    fn give(&mut self, table: u64) {
        give_pages(table, 1);
    }
}

fn tables() -> PageTable {
    PageTable {
        root: ROOT.load(Ordering::Relaxed),
        levels: levels(),
        table_bits: PRESENT | WRITE,
        present: PRESENT,
        max_level: 2,
    }
}

fn map(virt: u64, phys: u64, size: u64, bits: u64, small: bool) -> Result<(), Error> {
    tables().map(&mut PoolTables, virt, phys, size, bits, small).map_err(|_| Error::NoMemory)
}

/// Builds the address space; its root, to be loaded on every CPU.
pub fn build() -> Result<u64, Error> {
    let root = take_pages(1, 1)?;
    ROOT.store(root, Ordering::Relaxed);
    let (phys, size) = extent();
    let text = (&raw const __text_start).addr() as u64;
    let text_end = (&raw const __text_end).addr() as u64;
    let rodata_end = (&raw const __rodata_end).addr() as u64;
    map(BASE, phys, size, DATA, false)?;
    map(text, physical(text), text_end - text, PRESENT, true)?;
    map(text_end, physical(text_end), rodata_end - text_end, PRESENT | NO_EXECUTE, true)?;
    for cpu in 0..percpu::count() {
        let guard = (percpu::base() + cpu as usize * percpu::SIZE) as u64;
        tables().unmap(&mut PoolTables, guard, percpu::GUARD_SIZE as u64).map_err(|_| Error::NoMemory)?;
        // Maps nothing that matters: it makes the tables, so that using a window needs no page.
        map(window(cpu, 0), phys, WINDOW_PAGES * PAGE, PRESENT | NO_EXECUTE, true)?;
    }
    Ok(root)
}

/// Whether this machine has such addresses at all: an entry of a table with others is a fault.
#[must_use]
pub fn in_reach(phys: u64, size: u64) -> bool {
    let limit = 1 << (crate::x86::cpuid(0x8000_0008, 0)[0] & 0xff).min(52);
    phys.checked_add(size).is_some_and(|end| end <= limit)
}

/// Maps device registers, uncached. They stay mapped.
pub fn map_device(phys: u64, size: u64) -> Result<usize, Error> {
    if !in_reach(phys, size) {
        say!("device registers at {phys:#x}: this machine has no such addresses");
        return Err(Error::Invalid);
    }
    let offset = phys & (PAGE - 1);
    let length = (size + offset).next_multiple_of(PAGE);
    // 2 MiB steps, so that big register areas get big pages.
    let step = length.next_multiple_of(2 << 20) + (2 << 20);
    let virt = NEXT_DEVICE.fetch_add(step, Ordering::Relaxed) + ((phys - offset) & 0x1f_ffff);
    map(virt, phys - offset, length, DATA | UNCACHED, false)?;
    Ok((virt + offset) as usize)
}

fn window(cpu: u32, slot: u64) -> u64 {
    WINDOWS + (u64::from(cpu) * WINDOW_PAGES + slot) * PAGE
}

/// What each page of each CPU's window shows; 0 is nothing. Only the CPU itself uses its row.
static SHOWN: [[AtomicU64; WINDOW_PAGES as usize]; crate::cell::MAX_CPUS as usize] =
    [const { [const { AtomicU64::new(0) }; WINDOW_PAGES as usize] }; crate::cell::MAX_CPUS as usize];

/// Lets CPU `cpu` look at the byte at `phys`, and the rest of its page: valid until it looks at another page.
///
/// A page that is shown already costs nothing, so that the tables of the code that a guest runs most are found at once.
pub fn look(cpu: u32, phys: u64) -> *mut u8 {
    let page = phys & !(PAGE - 1);
    let slot = (phys / PAGE) % WINDOW_PAGES;
    let virt = window(cpu, slot);
    let shown = &SHOWN[cpu as usize][slot as usize];
    // The lowest bit tells page 0 from nothing.
    if shown.load(Ordering::Relaxed) != page | 1 {
        // The tables are there since `build`, so this cannot fail; nobody else uses the window, so flushing here is enough.
        let _ = map(virt, page, PAGE, DATA, true);
        x86_64::instructions::tlb::flush(x86_64::VirtAddr::new_truncate(virt));
        shown.store(page | 1, Ordering::Relaxed);
    }
    (virt + (phys & (PAGE - 1))) as *mut u8
}

/// Copies from physical memory that is not the hypervisor's own.
pub fn read_physical(cpu: u32, phys: u64, buffer: &mut [u8]) {
    let mut done = 0;
    while done < buffer.len() {
        let at = phys + done as u64;
        let count = (buffer.len() - done).min((PAGE - (at & (PAGE - 1))) as usize);
        let from = look(cpu, at);
        // SAFETY: the window maps that page; `count` stays inside it. The guest may write it meanwhile: bytes are bytes.
        unsafe { core::ptr::copy_nonoverlapping(from.cast_const(), buffer[done..].as_mut_ptr(), count) };
        done += count;
    }
}
