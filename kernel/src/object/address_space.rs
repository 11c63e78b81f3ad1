//! AddressSpace: page tables out of memory of its own, what is mapped in them, and the routes of foreign calls.
//!
//! * An attachment counts the pages of one Frame that are mapped. When the last capability to a Frame goes, all spaces attached to it
//!   are swept, so no mapping outlives the Frame.
//! * A last-level table that becomes empty goes back to the space's free pages.
//! * Large pages (2 MiB) are made only where `map` is asked for them, and are never split: so nothing but `map` needs memory.
#![allow(unsafe_code)] // Turns its own memory into table pages.

mod dirty;
mod mapping;

use super::attachments::Attachments;
use super::page_entry::bits;
use super::thread::errno;
use crate::arch;
use crate::cap::{Home, KernelObject, Slot};
use crate::kernel::Kernel;
use crate::list::{Adapter, Links};
use crate::memory::{PAGE_SIZE, Page, Ref};
use core::cell::Cell;
use core::mem::offset_of;
use ipc::{Error, ObjectType};

/// Routes of a space.
pub const ROUTES: usize = 7;
/// Foreign call numbers that can be routed.
pub const NUMBERS: usize = 512;
/// End of user addresses. The last page is left out: a `syscall` at its end would give a return address outside.
pub const USER_END: u64 = 0x7fff_ffff_f000;
/// Bytes and pages of a large page.
const LARGE_BYTES: u64 = 2 << 20;
const LARGE_PAGES: u64 = LARGE_BYTES / PAGE_SIZE;

/// Pages that are taken from the start.
#[repr(C)]
struct Run {
    next: Cell<u64>,
    pages: Cell<u64>,
}

/// An address space: its first page. The root table and the memory for further ones follow it.
#[repr(C, align(4096))]
pub struct AddressSpace {
    root: Cell<u64>,
    free: Cell<u64>,
    /// Memory that has not been used since the tables were last empty: the space's own, and that of the extensions. The space's
    /// own is zero at first, as memory for objects is; that of an extension is as it was.
    runs: [Run; 3],
    memory: Cell<u64>,
    memory_pages: Cell<u64>,
    /// The space's own pages have been tables before: they are not zero.
    used_before: Cell<bool>,
    sweep: Cell<u64>,
    alive: Links<AddressSpace>,
    dying: Links<AddressSpace>,
    /// Where foreign calls go.
    pub routes: [Slot; ROUTES],
    /// Memory given later.
    pub extensions: [Slot; 2],
    route_of: [Cell<u8>; NUMBERS],
    attachments: Attachments,
}

static_assertions::const_assert!(size_of::<AddressSpace>() <= 4096);

impl KernelObject for AddressSpace {
    const TYPE: ObjectType = ObjectType::AddressSpace;
}

/// All spaces that live.
pub struct AllSpaces;
impl Adapter for AllSpaces {
    type Node = AddressSpace;
    fn links(node: &AddressSpace) -> &Links<AddressSpace> {
        &node.alive
    }
}

/// Spaces that are being taken apart.
pub struct DyingSpaces;
impl Adapter for DyingSpaces {
    type Node = AddressSpace;
    fn links(node: &AddressSpace) -> &Links<AddressSpace> {
        &node.dying
    }
}

/// The space that an extension slot is part of.
pub fn of_extension(slot: Ref<Slot>) -> Ref<AddressSpace> {
    let inside = slot.address() % PAGE_SIZE;
    debug_assert!(inside >= offset_of!(AddressSpace, extensions) as u64);
    // SAFETY: spaces are page aligned and no larger than a page, so the slot's page starts with its space.
    unsafe { Ref::at(slot.address() - inside) }.unwrap_or_else(|| unreachable!())
}

/// One capability to the space's memory is gone: all tables go.
pub fn extension_lost(k: &Kernel, space: Ref<AddressSpace>) {
    unload(k, space);
    for slot in &space.extensions {
        if !slot.is_empty() {
            crate::cap::derivation::remove(Ref::from(slot));
            slot.clear();
        }
    }
    space.reset();
}

/// The last capability to the space is gone.
pub fn end(k: &Kernel, space: Ref<AddressSpace>) {
    unload(k, space);
    if let Some((base, next)) = k.sweep.get()
        && next == space
    {
        k.sweep.set(k.spaces.after(space).map(|after| (base, after)));
    }
    k.spaces.remove(space);
}

fn unload(k: &Kernel, space: Ref<AddressSpace>) {
    if k.cpu.loaded.get() == space.root() {
        k.cpu.loaded.set(arch::kernel_root());
        k.cpu.reschedule();
        arch::load_root(arch::kernel_root());
    }
}

/// What lies at an address: a directory (second-level table) and the index of its entry there.
#[derive(Clone, Copy)]
enum Found {
    /// Nothing is mapped before this address.
    Nothing(u64),
    /// A large page.
    Large(Page, usize),
    /// A last-level table.
    Table(Page, usize),
}

/// A table page.
///
/// The tables consist of pages of the space's own memory only; entries are never written by anyone but this module.
fn table(entry: u64) -> Page {
    // SAFETY: see above: the address comes from an entry of such a table or from the space itself.
    unsafe { Page::at(entry & bits::ADDRESS) }
}

/// Routes are kept so that 0, as memory is at first, stands for none.
fn encode_route(route: u64) -> u8 {
    (route as u8 + 1) % (ROUTES as u8 + 1)
}

fn decode_route(code: u8) -> usize {
    usize::from(code).wrapping_sub(1)
}

fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * level)) as usize & 511
}

impl AddressSpace {
    /// Sets up a space in zeroed memory: this page, and `pages` (at least 1) pages for tables from `memory` on.
    pub fn set_up(&self, k: &Kernel, memory: u64, pages: u64) {
        for slot in &self.routes {
            slot.set_home(Home::Route);
        }
        for slot in &self.extensions {
            slot.set_home(Home::Extension);
        }
        self.memory.set(memory);
        self.memory_pages.set(pages);
        self.make_root();
        k.spaces.push_back(Ref::from(self));
    }

    /// Nothing is mapped any more.
    fn reset(&self) {
        self.attachments.clear();
        for run in &self.runs {
            run.pages.set(0);
        }
        self.free.set(0);
        self.used_before.set(true);
        table(self.root.get()).clear();
        self.make_root();
    }

    /// The root is the first page of the memory, which is zero, and the others are free.
    fn make_root(&self) {
        self.root.set(self.memory.get());
        self.runs[0].next.set(self.memory.get() + PAGE_SIZE);
        self.runs[0].pages.set(self.memory_pages.get() - 1);
        arch::fill_kernel_half(table(self.root.get()));
    }

    /// Physical address of the root table.
    pub fn root(&self) -> u64 {
        self.root.get()
    }

    fn take_page(&self) -> Option<Page> {
        let page = match self.free.get() {
            0 => {
                let index = self.runs.iter().position(|run| run.pages.get() > 0)?;
                let run = &self.runs[index];
                run.pages.set(run.pages.get() - 1);
                let page = table(run.next.replace(run.next.get() + PAGE_SIZE));
                if index != 0 || self.used_before.get() {
                    page.clear();
                }
                page
            }
            // An empty table that came back, with the link in its first entry.
            head => {
                let page = table(head);
                self.free.set(page.read(0));
                page.write(0, 0);
                page
            }
        };
        Some(page)
    }

    fn give_page(&self, page: Page) {
        page.write(0, self.free.get());
        self.free.set(page.physical());
    }

    /// Adds the memory of an extension.
    pub fn extend(&self, slot: &Slot, memory: u64, pages: u64) {
        let index = self.extensions.iter().position(|extension| core::ptr::eq(extension, slot)).unwrap_or(0);
        self.runs[index + 1].next.set(memory);
        self.runs[index + 1].pages.set(pages);
    }

    /// The entry that points to the last-level table for an address: its table and index. If a table above it is missing, one is made,
    /// and that is all: `None`.
    fn make_directory(&self, address: u64) -> Result<Option<(Page, usize)>, Error> {
        let mut page = table(self.root.get());
        for level in [3, 2] {
            if self.make_table(page, index(address, level))? {
                return Ok(None);
            }
            page = table(page.read(index(address, level)));
        }
        Ok(Some((page, index(address, 1))))
    }

    /// Makes the table that an entry points to, if there is none. Whether it did.
    fn make_table(&self, page: Page, at: usize) -> Result<bool, Error> {
        if page.read(at) & bits::PRESENT != 0 {
            return Ok(false);
        }
        let new = self.take_page().ok_or(Error::OutOfMemory)?;
        page.write(at, new.physical() | bits::PRESENT | bits::WRITE | bits::USER);
        Ok(true)
    }

    /// Every page of its memory is a table or free, and every table counts its entries.
    #[cfg(any(test, feature = "invariants"))]
    pub fn check(&self) {
        let user = |page: Page, last: usize| (0..last).map(move |at| page.read(at)).filter(|entry| *entry != 0);
        let (mut tables, mut pages) = (1, 0);
        for top in user(table(self.root.get()), 256) {
            tables += 1;
            for middle in user(table(top), 512) {
                tables += 1;
                for directory in user(table(middle), 512) {
                    if directory & bits::LARGE != 0 {
                        pages += LARGE_PAGES;
                        continue;
                    }
                    let entries = user(table(directory), 512).count() as u64;
                    assert!(
                        entries != 0 && directory >> 52 & 0x3ff == entries,
                        "a table miscounts its {entries} entries"
                    );
                    tables += 1;
                    pages += entries;
                }
            }
        }
        // The kernel maps parts of the first process that are nobody's Frame.
        assert!(self.mapped_pages() <= pages, "{pages} pages are mapped, and {} counted", self.mapped_pages());
        let mut free: u64 = self.runs.iter().map(|run| run.pages.get()).sum();
        let mut next = self.free.get();
        while next != 0 {
            free += 1;
            next = table(next).read(0);
        }
        let given: u64 =
            self.extensions.iter().map(|slot| if slot.is_empty() { 0 } else { slot.extra() / PAGE_SIZE }).sum();
        assert!(
            tables + free == self.memory_pages.get() + given,
            "{tables} tables and {free} free pages do not add up"
        );
    }

    /// Pages that are mapped, by the count for each Frame.
    #[cfg(any(test, feature = "invariants"))]
    pub fn mapped_pages(&self) -> u64 {
        self.attachments.mapped_pages()
    }

    /// What an address leads to.
    fn look(&self, address: u64) -> Found {
        let mut page = table(self.root.get());
        for level in [3, 2] {
            let entry = page.read(index(address, level));
            if entry & bits::PRESENT == 0 {
                let size = PAGE_SIZE << (9 * level);
                return Found::Nothing((address | (size - 1)) + 1);
            }
            page = table(entry);
        }
        let at = index(address, 1);
        match page.read(at) {
            entry if entry & bits::PRESENT == 0 => Found::Nothing((address | (LARGE_BYTES - 1)) + 1),
            entry if entry & bits::LARGE != 0 => Found::Large(page, at),
            _ => Found::Table(page, at),
        }
    }

    /// The entry of a page, 0 if there is none. For a part of a large page, what it would be.
    pub fn entry(&self, address: u64) -> u64 {
        if address >= USER_END {
            return 0;
        }
        match self.look(address) {
            Found::Nothing(_) => 0,
            Found::Large(directory, at) => directory.read(at) - bits::LARGE + (address & (LARGE_BYTES - PAGE_SIZE)),
            Found::Table(directory, at) => table(directory.read(at)).read(index(address, 0)),
        }
    }

    fn user_page(entry: u64, needed: u64) -> Option<Page> {
        if entry & needed != needed || entry & bits::UNCACHED != 0 {
            return None;
        }
        // SAFETY: present cached entries come from frames of RAM, which are in the direct map and hold no kernel objects.
        Some(unsafe { Page::at(entry & bits::ADDRESS) })
    }

    /// The page at an address, if the user can read it and it is RAM.
    pub fn readable(&self, address: u64) -> Option<Page> {
        Self::user_page(self.entry(address), bits::PRESENT)
    }

    /// Says which route foreign calls of these numbers take.
    pub fn set_route(&self, first: u64, last: u64, route: u64) -> Result<(), Error> {
        if first > last || last >= NUMBERS as u64 || route > ROUTES as u64 {
            return Err(Error::InvalidArgument);
        }
        for number in &self.route_of[first as usize..=last as usize] {
            number.set(encode_route(route));
        }
        Ok(())
    }

    /// The slot of the route of a foreign call; it may be empty.
    #[inline(always)]
    pub fn route_slot(&self, number: u64) -> Option<&Slot> {
        let route = self.route_of.get(usize::try_from(number).ok()?)?.get();
        self.routes.get(decode_route(route))
    }

    /// Where a foreign call goes, or the error number that answers it.
    pub fn route(&self, number: u64) -> Result<&Slot, u64> {
        self.route_slot(number).filter(|slot| !slot.is_empty()).ok_or(errno::ENOSYS)
    }
}
