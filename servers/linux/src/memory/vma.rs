//! Virtual memory areas: what the program asked for, whether or not pages are behind it. A bounded, sorted table of plain
//! data; neighbours that say the same are one area.

use super::PAGE;
use crate::errno::{Errno, Result};
use alloc::vec::Vec;
use ipc::shadow::{WINDOW_END, WINDOW_START};

/// Most areas of a process.
pub const MAX_AREAS: usize = 1024;

/// `PROT_READ`, `PROT_WRITE`, `PROT_EXEC`.
pub mod prot {
    #![allow(missing_docs)]
    pub const NONE: u8 = 0;
    pub const READ: u8 = 1;
    pub const WRITE: u8 = 2;
    pub const EXEC: u8 = 4;
}

/// Properties of an area.
pub mod area {
    /// Changes are seen by all who map it.
    pub const SHARED: u8 = 1;
    /// Grows downwards on Linux; here it has its full size from the start.
    pub const GROWS_DOWN: u8 = 2;
    /// Belongs to the system (vDSO, scratch memory): the program cannot change it.
    pub const SYSTEM: u8 = 4;
}

/// [`Area::file`] of an area without a file.
pub const NO_FILE: u32 = u32::MAX;

/// A virtual memory area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First address, a multiple of the page size.
    pub start: u64,
    /// End, a multiple of the page size.
    pub end: u64,
    /// [`prot`] bits.
    pub protection: u8,
    /// [`area`] bits.
    pub flags: u8,
    /// Index of the file that changes are written back to, or [`NO_FILE`].
    pub file: u32,
    /// Offset of `start` in that file.
    pub offset: u64,
}

impl Area {
    /// An anonymous private area.
    pub fn anonymous(start: u64, end: u64, protection: u8) -> Area {
        Area { start, end, protection, flags: 0, file: NO_FILE, offset: 0 }
    }

    /// The part of it in `start..end`, if any.
    pub fn clip(&self, start: u64, end: u64) -> Option<Area> {
        let (from, to) = (self.start.max(start), self.end.min(end));
        (from < to).then(|| Area {
            start: from,
            end: to,
            offset: if self.file == NO_FILE { 0 } else { self.offset + (from - self.start) },
            ..*self
        })
    }

    fn continues(&self, next: &Area) -> bool {
        self.end == next.start
            && (self.protection, self.flags, self.file) == (next.protection, next.flags, next.file)
            && (self.file == NO_FILE || self.offset + (self.end - self.start) == next.offset)
    }
}

/// The areas of a process.
#[derive(Clone, Debug, Default)]
pub struct Areas {
    sorted: Vec<Area>,
}

impl Areas {
    /// All areas in order.
    pub fn iter(&self) -> impl Iterator<Item = &Area> {
        self.sorted.iter()
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// Index of the first area that ends after the address.
    fn lower(&self, address: u64) -> usize {
        self.sorted.partition_point(|area| area.end <= address)
    }

    /// The area that holds the address.
    pub fn find(&self, address: u64) -> Option<&Area> {
        self.sorted.get(self.lower(address)).filter(|area| area.start <= address)
    }

    /// The parts of areas that lie in the range.
    pub fn within(&self, start: u64, end: u64) -> impl Iterator<Item = Area> {
        self.sorted[self.lower(start)..].iter().map_while(move |area| area.clip(start, end))
    }

    /// Whether nothing lies in the range.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        self.within(start, end).next().is_none()
    }

    /// Whether the range has no hole.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for area in self.within(start, end) {
            if area.start != at {
                return false;
            }
            at = area.end;
        }
        at == end
    }

    /// Makes room in the table for a change that splits areas: at most two more.
    pub fn check_room(&self) -> Result<()> {
        if self.sorted.len() + 2 > MAX_AREAS { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Adds an area where nothing is.
    pub fn insert(&mut self, area: Area) {
        debug_assert!(area.start < area.end && self.is_free(area.start, area.end));
        let mut index = self.lower(area.start);
        self.sorted.insert(index, area);
        if index > 0 && self.sorted[index - 1].continues(&self.sorted[index]) {
            self.sorted[index - 1].end = area.end;
            self.sorted.remove(index);
            index -= 1;
        }
        if index + 1 < self.sorted.len() && self.sorted[index].continues(&self.sorted[index + 1]) {
            self.sorted[index].end = self.sorted[index + 1].end;
            self.sorted.remove(index + 1);
        }
    }

    /// Takes everything in the range out, splitting what reaches beyond it, and gives the pieces.
    pub fn remove(&mut self, start: u64, end: u64) -> Vec<Area> {
        let first = self.lower(start);
        let pieces: Vec<Area> = self.within(start, end).collect();
        let mut rest = Vec::new();
        for area in &self.sorted[first..first + pieces.len()] {
            rest.extend(area.clip(0, start));
            rest.extend(area.clip(end, u64::MAX));
        }
        self.sorted.splice(first..first + pieces.len(), rest);
        pieces
    }

    /// Changes the protection of what is in the range.
    pub fn protect(&mut self, start: u64, end: u64, protection: u8) {
        for piece in self.remove(start, end) {
            self.insert(Area { protection, ..piece });
        }
    }

    /// The highest free place of `size` bytes that ends at or below `top`.
    pub fn place_below(&self, top: u64, size: u64) -> Option<u64> {
        let mut end = top.min(WINDOW_END);
        for area in self.sorted[..self.sorted.partition_point(|area| area.start < end)].iter().rev() {
            if area.end < end && end - area.end >= size {
                return Some(end - size);
            }
            end = end.min(area.start);
        }
        (end >= WINDOW_START.checked_add(size)?).then(|| end - size)
    }
}

/// Whether a range of whole pages lies in the window that programs may use.
pub fn in_window(start: u64, size: u64) -> bool {
    start.is_multiple_of(PAGE) && start >= WINDOW_START && start.checked_add(size).is_some_and(|end| end <= WINDOW_END)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(list: &[(u64, u64, u8)]) -> Areas {
        let mut areas = Areas::default();
        for (start, end, protection) in list {
            areas.insert(Area::anonymous(*start, *end, *protection));
        }
        areas
    }

    fn list(areas: &Areas) -> Vec<(u64, u64, u8)> {
        areas.iter().map(|area| (area.start, area.end, area.protection)).collect()
    }

    #[test]
    fn neighbours_merge() {
        let areas = table(&[(0x3000, 0x4000, 3), (0x1000, 0x2000, 3), (0x2000, 0x3000, 3), (0x4000, 0x5000, 1)]);
        assert_eq!(list(&areas), [(0x1000, 0x4000, 3), (0x4000, 0x5000, 1)]);
    }

    #[test]
    fn removing_splits() {
        let mut areas = table(&[(0x1000, 0x5000, 3), (0x6000, 0x8000, 1)]);
        let pieces = areas.remove(0x2000, 0x7000);
        assert_eq!(pieces.len(), 2);
        assert_eq!(list(&areas), [(0x1000, 0x2000, 3), (0x7000, 0x8000, 1)]);
        assert!(areas.remove(0x2000, 0x7000).is_empty());
        let mut areas = table(&[(0x1000, 0x5000, 3)]);
        areas.remove(0x2000, 0x3000);
        assert_eq!(list(&areas), [(0x1000, 0x2000, 3), (0x3000, 0x5000, 3)]);
    }

    #[test]
    fn file_offsets_follow() {
        let mut areas = Areas::default();
        areas.insert(Area { start: 0x1000, end: 0x5000, protection: 1, flags: area::SHARED, file: 0, offset: 0x10000 });
        areas.protect(0x2000, 0x3000, 3);
        assert_eq!(areas.find(0x3000).unwrap().offset, 0x12000);
        areas.protect(0x2000, 0x3000, 1);
        assert_eq!(areas.count(), 1);
    }

    #[test]
    fn coverage_and_places() {
        let areas = table(&[(0x1_0000, 0x2_0000, 3), (0x2_0000, 0x3_0000, 1), (0x5_0000, 0x6_0000, 1)]);
        assert!(areas.covers(0x1_1000, 0x2_5000));
        assert!(!areas.covers(0x2_0000, 0x5_1000));
        assert_eq!(areas.place_below(0x6_0000, 0x1_0000), Some(0x4_0000));
        assert_eq!(areas.place_below(0x5_8000, 0x2_0000), Some(0x3_0000));
        assert_eq!(areas.place_below(0x6_0000, 0x3_0000), None);
        assert_eq!(areas.place_below(0x10_0000, 0x3_0000), Some(0xd_0000));
        assert_eq!(areas.place_below(WINDOW_END, u64::MAX), None);
    }

    #[test]
    fn window_bounds() {
        assert!(in_window(WINDOW_START, PAGE) && !in_window(0, PAGE) && !in_window(WINDOW_START + 1, PAGE));
        assert!(!in_window(WINDOW_END, PAGE) && !in_window(WINDOW_START, u64::MAX));
    }
}
