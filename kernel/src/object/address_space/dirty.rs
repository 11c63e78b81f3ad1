//! Which pages of an address space have been written: by its threads, or by the kernel in their name.

use super::{AddressSpace, Found, LARGE_BYTES, LARGE_PAGES, index, table};
use crate::kernel::Kernel;
use crate::memory::{PAGE_SIZE, Page};
use crate::object::page_entry::bits;
use ipc::Error;

/// Pages that one question for dirty ones is about, 64 to a word of the answer.
const DIRTY_WORDS: usize = 8;
const DIRTY_PAGES: u64 = 64 * DIRTY_WORDS as u64;

impl AddressSpace {
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
}
