//! An address space: pages, and the memory that its tables take.

use ipc::{Error, Protection, Rights};
use std::collections::{BTreeMap, BTreeSet};

const PAGE: u64 = 4096;
const END: u64 = 0x7fff_ffff_f000;
/// Frames that can be mapped at once.
const FRAMES: usize = 96;

/// A page that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub physical: u64,
    pub frame: u64,
    pub protection: Protection,
    /// What the capability that mapped it allowed.
    pub rights: Rights,
    /// Written since somebody asked, or since it was mapped.
    pub dirty: bool,
}

#[derive(Default)]
pub struct Space {
    /// Pages for tables that it was made with.
    pub memory: u64,
    /// Pages given later.
    pub more: u64,
    pub pages: BTreeMap<u64, Mapping>,
    /// Tables of the upper levels: they stay. By level and address.
    pub upper: BTreeSet<(u32, u64)>,
}

pub fn check(protection: u64, rights: Rights) -> Result<Protection, Error> {
    let protection = u8::try_from(protection).ok().and_then(Protection::from_bits).ok_or(Error::InvalidArgument)?;
    if protection.contains(Protection::LARGE)
        || !protection.contains(Protection::READ)
        || protection.contains(Protection::WRITE | Protection::EXECUTE)
    {
        return Err(Error::InvalidArgument);
    }
    let needs = [(Protection::WRITE, Rights::WRITE), (Protection::EXECUTE, Rights::EXECUTE)];
    if needs.into_iter().any(|(wanted, right)| protection.contains(wanted) && !rights.contains(right)) {
        return Err(Error::MissingRights);
    }
    Ok(protection)
}

pub fn range(address: u64, pages: u64) -> Result<(), Error> {
    let end = pages.checked_mul(PAGE).and_then(|bytes| bytes.checked_add(address)).ok_or(Error::InvalidArgument)?;
    if !address.is_multiple_of(PAGE) || pages == 0 || end > END { Err(Error::InvalidArgument) } else { Ok(()) }
}

impl Space {
    fn last_tables(&self) -> u64 {
        self.pages.keys().map(|page| page >> 9).collect::<BTreeSet<_>>().len() as u64
    }

    fn free(&self) -> u64 {
        self.memory + self.more - 1 - self.upper.len() as u64 - self.last_tables()
    }

    /// Maps one page, with the tables that it needs.
    fn put(&mut self, page: u64, mapping: Mapping) -> Result<(), Error> {
        for level in [3, 2] {
            if !self.upper.contains(&(level, page >> (9 * level))) {
                if self.free() == 0 {
                    return Err(Error::OutOfMemory);
                }
                self.upper.insert((level, page >> (9 * level)));
            }
        }
        let has_table = self.pages.range(page >> 9 << 9..).next().is_some_and(|(next, _)| next >> 9 == page >> 9);
        if !has_table && self.free() == 0 {
            return Err(Error::OutOfMemory);
        }
        if self.pages.contains_key(&page) {
            return Err(Error::Busy);
        }
        self.pages.insert(page, mapping);
        Ok(())
    }

    /// Maps pages one after the other; how many, and why not all.
    pub fn map(&mut self, address: u64, pages: u64, first: Mapping) -> (u64, Result<(), Error>) {
        let frames: BTreeSet<u64> = self.pages.values().map(|mapping| mapping.frame).collect();
        if frames.len() >= FRAMES && !frames.contains(&first.frame) {
            return (0, Err(Error::OutOfMemory));
        }
        for done in 0..pages {
            let mapping = Mapping { physical: first.physical + done * PAGE, ..first };
            if let Err(error) = self.put(address / PAGE + done, mapping) {
                return (done, Err(error));
            }
        }
        (pages, Ok(()))
    }

    pub fn unmap(&mut self, address: u64, pages: u64) -> (u64, Result<(), Error>) {
        if let Err(error) = range(address, pages) {
            return (0, Err(error));
        }
        self.pages.retain(|page, _| *page < address / PAGE || *page >= address / PAGE + pages);
        (pages, Ok(()))
    }

    pub fn protect(&mut self, address: u64, pages: u64, protection: u64) -> (u64, Result<(), Error>) {
        if let Err(error) = range(address, pages) {
            return (0, Err(error));
        }
        for (page, mapping) in self.pages.range_mut(address / PAGE..address / PAGE + pages) {
            match check(protection, mapping.rights) {
                Ok(protection) => mapping.protection = protection,
                Err(error) => return (page - address / PAGE, Err(error)),
            }
        }
        (pages, Ok(()))
    }

    /// Pages looked at, and which of them were dirty, in the words of the answer.
    pub fn take_dirty(&mut self, address: u64, pages: u64) -> (u64, [u64; 8], Result<(), Error>) {
        let mut words = [0; 8];
        if let Err(error) = range(address, pages) {
            return (0, words, Err(error));
        }
        let done = pages.min(512);
        for (page, mapping) in self.pages.range_mut(address / PAGE..address / PAGE + done) {
            let index = page - address / PAGE;
            words[index as usize / 64] |= u64::from(std::mem::take(&mut mapping.dirty)) << (index % 64);
        }
        (done, words, if done < pages { Err(Error::Partial) } else { Ok(()) })
    }

    /// A frame is gone.
    pub fn forget(&mut self, frame: u64) {
        self.pages.retain(|_, mapping| mapping.frame != frame);
    }

    /// All tables are gone, and what was given later.
    pub fn reset(&mut self) {
        self.pages.clear();
        self.upper.clear();
        self.more = 0;
    }
}
