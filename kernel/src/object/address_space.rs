//! AddressSpace: page tables out of memory of its own, what is mapped in them, and the routes of foreign calls.
//!
//! * An attachment counts the pages of one Frame that are mapped. When the last capability to a Frame goes, all spaces attached to it
//!   are swept, so no mapping outlives the Frame.
//! * A last-level table that becomes empty goes back to the space's free pages.
//! * Large pages (2 MiB) are made only where `map` is asked for them, and are never split: so nothing but `map` needs memory.
#![allow(unsafe_code)] // Turns its own memory into table pages.

use super::attachments::{self, Attachments};
use super::frame;
use super::page_entry::{self, bits};
use super::thread::errno;
use crate::arch;
use crate::cap::{Home, KernelObject, Slot};
use crate::kernel::Kernel;
use crate::list::{Adapter, Links};
use crate::memory::{PAGE_SIZE, Page, Ref};
use core::cell::Cell;
use core::mem::offset_of;
use ipc::{Error, ObjectType, Protection};

/// Routes of a space.
pub const ROUTES: usize = 7;
/// Foreign call numbers that can be routed.
pub const NUMBERS: usize = 512;
/// End of user addresses. The last page is left out: a `syscall` at its end would give a return address outside.
pub const USER_END: u64 = 0x7fff_ffff_f000;
/// Entries that are made or changed between two looks at interrupts.
const BATCH: u64 = 4;
/// Bytes and pages of a large page.
const LARGE_BYTES: u64 = 2 << 20;
const LARGE_PAGES: u64 = LARGE_BYTES / PAGE_SIZE;
/// Entries of one table that a step of a sweep looks at, and tables that it looks for them in.
const SWEEP_ENTRIES: u64 = 4;
const SWEEP_TABLES: u32 = 8;
/// Pages that one question for dirty ones is about, 64 to a word of the answer.
const DIRTY_WORDS: usize = 8;
const DIRTY_PAGES: u64 = 64 * DIRTY_WORDS as u64;

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

    /// The page at an address, if the user can write it and it is RAM. It counts as written: the processor, which finds it by another
    /// entry when the kernel writes, does not say so in this one.
    pub fn writable(&self, address: u64) -> Option<Page> {
        let entry = self.entry(address);
        let page = Self::user_page(entry, bits::PRESENT | bits::WRITE)?;
        if entry & bits::DIRTY == 0
            && let Found::Table(directory, at) = self.look(address)
        {
            table(directory.read(at)).write(index(address, 0), entry | bits::DIRTY);
        }
        Some(page)
    }

    /// Checks a range of user pages; gives its end.
    fn range(address: u64, pages: u64) -> Result<u64, Error> {
        let bytes = pages.checked_mul(PAGE_SIZE).ok_or(Error::InvalidArgument)?;
        let end = address.checked_add(bytes).ok_or(Error::InvalidArgument)?;
        if !address.is_multiple_of(PAGE_SIZE) || pages == 0 || end > USER_END {
            Err(Error::InvalidArgument)
        } else {
            Ok(end)
        }
    }

    /// Maps pages of a Frame. Says how many were mapped, and why not all.
    pub fn map(
        &self,
        k: &Kernel,
        frame: &Slot,
        first: u64,
        address: u64,
        pages: u64,
        protection: u64,
    ) -> (u64, Result<(), Error>) {
        let large = protection & u64::from(Protection::LARGE.bits()) != 0;
        let protection = protection & !u64::from(Protection::LARGE.bits());
        let flags =
            match Self::range(address, pages).and_then(|_| page_entry::of_frame(frame, first, pages, protection)) {
                Ok(flags) => flags,
                Err(error) => return (0, Err(error)),
            };
        let attachment = match self.attachments.attach(frame.memory_base(), frame.extra() / PAGE_SIZE) {
            Ok(cell) => cell,
            Err(error) => return (0, Err(error)),
        };
        let physical = frame.memory_base() + first * PAGE_SIZE;
        let unit = if large { LARGE_PAGES } else { 1 };
        if large
            && !(address.is_multiple_of(LARGE_BYTES)
                && physical.is_multiple_of(LARGE_BYTES)
                && pages.is_multiple_of(unit))
        {
            return (0, Err(Error::InvalidArgument));
        }
        let mut done = 0;
        while done < pages {
            let (address, physical) = (address + done * PAGE_SIZE, physical + done * PAGE_SIZE);
            let made = if large {
                self.map_large(address, physical | flags)
            } else {
                self.map_page(address, physical | flags)
            };
            match made {
                Err(error) => return (done, Err(error)),
                Ok(false) => {}
                Ok(true) => {
                    attachments::count(attachment, unit as i32);
                    done += unit;
                }
            }
            // Each can take a new table.
            if done < pages && k.interrupted() {
                return (done, Err(Error::Partial));
            }
        }
        (pages, Ok(()))
    }

    /// A step towards a mapped page: `true` if that is what there is now, `false` if a table was made.
    fn map_page(&self, address: u64, entry: u64) -> Result<bool, Error> {
        let Some((directory, at)) = self.make_directory(address)? else { return Ok(false) };
        self.make_table(directory, at)?;
        let parent = directory.read(at);
        if parent & bits::LARGE != 0 || table(parent).read(index(address, 0)) != 0 {
            return Err(Error::Busy);
        }
        table(parent).write(index(address, 0), entry);
        directory.write(at, parent + bits::COUNT_ONE);
        Ok(true)
    }

    /// The same for a large page.
    fn map_large(&self, address: u64, entry: u64) -> Result<bool, Error> {
        let Some((directory, at)) = self.make_directory(address)? else { return Ok(false) };
        if directory.read(at) != 0 {
            return Err(Error::Busy);
        }
        directory.write(at, entry | bits::LARGE);
        Ok(true)
    }

    /// Takes a large page out.
    fn clear_large(&self, k: &Kernel, directory: Page, at: usize, address: u64) {
        let entry = directory.read(at);
        directory.write(at, 0);
        self.flush(k, address);
        if let Some(cell) = self.attachments.find(entry & bits::ADDRESS) {
            attachments::count(cell, -(LARGE_PAGES as i32));
        }
    }

    /// Takes one page out; its last-level table too if that becomes empty.
    fn clear_entry(&self, k: &Kernel, directory: Page, at: usize, address: u64) {
        let parent = directory.read(at);
        let leaf = table(parent);
        let entry = leaf.read(index(address, 0));
        leaf.write(index(address, 0), 0);
        let parent = parent - bits::COUNT_ONE;
        let empty = parent & bits::COUNT == 0;
        directory.write(at, if empty { 0 } else { parent });
        self.flush(k, address);
        if empty {
            self.give_page(leaf);
        }
        if let Some(cell) = self.attachments.find(entry & bits::ADDRESS) {
            attachments::count(cell, -1);
        }
    }

    /// Forgets the translation of a page, and of the tables that lead to it.
    fn flush(&self, k: &Kernel, address: u64) {
        if k.cpu.loaded.get() == self.root() {
            arch::invalidate_page(address);
        }
    }

    /// Goes over what is mapped in a range; says how many pages (mapped or not) are behind it. A large page that is not in the range
    /// as a whole is an error.
    fn walk(
        &self,
        k: &Kernel,
        address: u64,
        pages: u64,
        mut visit: impl FnMut(Found, u64) -> Result<(), Error>,
    ) -> (u64, Result<(), Error>) {
        let end = match Self::range(address, pages) {
            Ok(end) => end,
            Err(error) => return (0, Err(error)),
        };
        let (mut at, mut steps) = (address, 0);
        while at < end {
            let found = self.look(at);
            let result = match found {
                Found::Nothing(_) => Ok(()),
                Found::Large(..) if !at.is_multiple_of(LARGE_BYTES) || end - at < LARGE_BYTES => {
                    Err(Error::InvalidArgument)
                }
                Found::Table(directory, index_1) if table(directory.read(index_1)).read(index(at, 0)) == 0 => Ok(()),
                _ => visit(found, at),
            };
            if let Err(error) = result {
                return ((at - address) / PAGE_SIZE, Err(error));
            }
            at = match found {
                Found::Nothing(next) => next,
                Found::Large(..) => at + LARGE_BYTES,
                Found::Table(..) => at + PAGE_SIZE,
            };
            steps += 1;
            if steps % BATCH == 0 && at < end && k.interrupted() {
                return ((at - address) / PAGE_SIZE, Err(Error::Partial));
            }
        }
        (pages, Ok(()))
    }

    /// Unmaps what is mapped in a range.
    pub fn unmap(&self, k: &Kernel, address: u64, pages: u64) -> (u64, Result<(), Error>) {
        self.walk(k, address, pages, |found, address| {
            match found {
                Found::Large(directory, at) => self.clear_large(k, directory, at, address),
                Found::Table(directory, at) => self.clear_entry(k, directory, at, address),
                Found::Nothing(_) => {}
            }
            Ok(())
        })
    }

    /// Changes the protection of what is mapped in a range.
    pub fn protect(&self, k: &Kernel, address: u64, pages: u64, protection: u64) -> (u64, Result<(), Error>) {
        self.walk(k, address, pages, |found, address| {
            let (table, at, large) = match found {
                Found::Large(directory, at) => (directory, at, bits::LARGE),
                Found::Table(directory, at) => (table(directory.read(at)), index(address, 0), 0),
                Found::Nothing(_) => return Ok(()),
            };
            let entry = table.read(at);
            let limits = entry & (bits::MAY_WRITE | bits::MAY_EXECUTE | bits::UNCACHED);
            let flags = page_entry::flags(protection, limits)?;
            table.write(at, entry & (bits::ADDRESS | bits::DIRTY) | flags | large);
            self.flush(k, address);
            Ok(())
        })
    }

    /// Which small pages of a range have been written since this was last asked, or since they were mapped: bit by bit, for the first
    /// [`DIRTY_PAGES`] of it at most. Says how many pages (mapped or not) are behind it, and why not all.
    ///
    /// A processor that holds a translation with the bit set does not write the bit again (Intel SDM 3, 4.8; AMD APM 2, 5.4.2): so a page
    /// whose bit is cleared is flushed.
    pub fn take_dirty(
        &self,
        k: &Kernel,
        address: u64,
        pages: u64,
        dirty: &mut [u64; DIRTY_WORDS],
    ) -> (u64, Result<(), Error>) {
        if let Err(error) = Self::range(address, pages) {
            return (0, Err(error));
        }
        let end = address + pages.min(DIRTY_PAGES) * PAGE_SIZE;
        let mut at = address;
        while at < end {
            let leaf = match self.look(at) {
                Found::Nothing(next) => {
                    at = next.min(end);
                    continue;
                }
                // It has one bit for all of it.
                Found::Large(..) => return ((at - address) / PAGE_SIZE, Err(Error::InvalidArgument)),
                Found::Table(directory, index_1) => table(directory.read(index_1)),
            };
            let (base, first) = (at & !(LARGE_BYTES - 1), index(at, 0));
            let last = ((end - base) / PAGE_SIZE).min(LARGE_PAGES) as usize;
            for group in (first & !7..last).step_by(8) {
                if !leaf.eight_have(group, bits::DIRTY as u32) {
                    continue;
                }
                for index in first.max(group)..last.min(group + 8) {
                    let entry = leaf.read(index);
                    if entry & bits::DIRTY != 0 {
                        leaf.write(index, entry & !bits::DIRTY);
                        let at = base + index as u64 * PAGE_SIZE;
                        self.flush(k, at);
                        let page = (at - address) / PAGE_SIZE;
                        dirty[(page / 64) as usize % DIRTY_WORDS] |= 1 << (page % 64);
                    }
                }
                at = base + last.min(group + 8) as u64 * PAGE_SIZE;
                if at < end && k.interrupted() {
                    return ((at - address) / PAGE_SIZE, Err(Error::Partial));
                }
            }
            at = base + last as u64 * PAGE_SIZE;
        }
        if pages > DIRTY_PAGES { (DIRTY_PAGES, Err(Error::Partial)) } else { (pages, Ok(())) }
    }

    /// Makes a bounded step in unmapping everything of the Frame with this base. `false`: there was nothing to do.
    pub fn sweep_step(&self, k: &Kernel, base: u64) -> bool {
        let Some(attachment) = self.attachments.of(base) else {
            self.sweep.set(0);
            return false;
        };
        let end = attachment.get().end();
        let is_part = |entry: u64| entry != 0 && frame::contains(base, end, entry & bits::ADDRESS);
        let mut next = self.sweep.get();
        for _ in 0..SWEEP_TABLES {
            if next >= USER_END {
                next = 0;
            }
            match self.look(next) {
                Found::Nothing(after) => next = after,
                Found::Large(directory, at) => {
                    if is_part(directory.read(at)) {
                        self.clear_large(k, directory, at, next);
                    }
                    next += LARGE_BYTES;
                }
                Found::Table(directory, at) => {
                    let leaf = table(directory.read(at));
                    let stop = (next | (SWEEP_ENTRIES * PAGE_SIZE - 1)) + 1;
                    while next < stop && directory.read(at) != 0 {
                        if is_part(leaf.read(index(next, 0))) {
                            self.clear_entry(k, directory, at, next);
                        }
                        next += PAGE_SIZE;
                    }
                    break;
                }
            }
        }
        self.sweep.set(next);
        true
    }

    /// Maps a page for the kernel itself while it builds the first process.
    pub fn map_first(&self, address: u64, physical: u64, protection: Protection) -> Result<(), Error> {
        let flags = page_entry::flags(u64::from(protection.bits()), bits::MAY_WRITE | bits::MAY_EXECUTE)?;
        while !self.map_page(address, physical | flags)? {}
        Ok(())
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
