//! What is mapped in an address space: making, changing and taking out entries.
//!
//! Each step that changes entries is bounded; between two of them interrupts are looked for, and what is left is done by the same call,
//! made again.

use super::{AddressSpace, Found, LARGE_BYTES, LARGE_PAGES, USER_END, index, table};
use crate::arch;
use crate::cap::Slot;
use crate::kernel::Kernel;
use crate::memory::{PAGE_SIZE, Page};
use crate::object::page_entry::{self, bits};
use crate::object::{attachments, frame};
use ipc::{Error, Protection};

/// Entries that are made or changed between two looks at interrupts.
const BATCH: u64 = 4;

/// Entries of one table that a step of a sweep looks at, and tables that it looks for them in.
const SWEEP_ENTRIES: u64 = 4;
const SWEEP_TABLES: u32 = 8;

impl AddressSpace {
    /// Checks a range of user pages; gives its end.
    pub(super) fn range(address: u64, pages: u64) -> Result<u64, Error> {
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
    pub(super) fn flush(&self, k: &Kernel, address: u64) {
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
}
