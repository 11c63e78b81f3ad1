//! Page tables of the long-mode shape: the hypervisor's own, AMD's nested tables and Intel's extended tables.
//!
//! A table is mapped, unmapped and split by ranges; big pages are used where alignment allows. Only `read`, `write`, `take` and
//! `give` of [`Tables`] touch the machine, so the logic runs on the host too.
//!
//! Whoever removes or narrows a mapping must flush what the CPUs may have cached of it; nothing here does.

/// Address bits of an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const LARGE: u64 = 1 << 7;

/// Page sizes by level: 1 is 4 KiB, 2 is 2 MiB, 3 is 1 GiB.
#[must_use]
pub const fn level_size(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

/// Where table pages live and come from. Tables are named by physical address.
pub trait Tables {
    /// Reads entry `index` of the table.
    fn read(&self, table: u64, index: usize) -> u64;
    /// Writes entry `index` of the table.
    fn write(&mut self, table: u64, index: usize, value: u64);
    /// A zeroed page for a new table.
    fn take(&mut self) -> Option<u64>;
    /// Gives a table's page back.
    fn give(&mut self, table: u64);
}

/// No page left for a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfPages;

/// A page table.
#[derive(Clone, Copy, Debug)]
pub struct PageTable {
    /// Physical address of the root.
    pub root: u64,
    /// Levels: 4 or 5.
    pub levels: u32,
    /// Bits of an entry that points to a table.
    pub table_bits: u64,
    /// An entry with any of these bits is present.
    pub present: u64,
    /// Biggest page, as a level.
    pub max_level: u32,
}

impl PageTable {
    const fn index(address: u64, level: u32) -> usize {
        ((address >> (12 + 9 * (level - 1))) & 511) as usize
    }

    /// Maps `size` bytes at `virt` to `phys` with the entry bits `bits`. What was mapped there is replaced.
    /// `small` forbids big pages. On failure, part may be mapped: unmap the range.
    pub fn map(
        &self,
        tables: &mut impl Tables,
        virt: u64,
        phys: u64,
        size: u64,
        bits: u64,
        small: bool,
    ) -> Result<(), OutOfPages> {
        let mut done = 0;
        while done < size {
            let (at, to) = (virt + done, phys + done);
            let top = if small { 1 } else { self.max_level };
            let level = (1..=top)
                .rev()
                .find(|&level| (at | to).is_multiple_of(level_size(level)) && size - done >= level_size(level))
                .unwrap_or(1);
            self.set(tables, at, level, to | bits | if level > 1 { LARGE } else { 0 })?;
            done += level_size(level);
        }
        Ok(())
    }

    /// Unmaps `size` bytes at `virt`. Splitting a big page may need a page.
    pub fn unmap(&self, tables: &mut impl Tables, virt: u64, size: u64) -> Result<(), OutOfPages> {
        let mut done = 0;
        while done < size {
            let at = virt + done;
            let (level, _) = self.lookup(tables, at);
            // An absent or mapped page of this size that is wholly inside goes in one step.
            let level = (1..=level)
                .rev()
                .find(|&level| at.is_multiple_of(level_size(level)) && size - done >= level_size(level))
                .unwrap_or(1);
            if self.lookup(tables, at).1.is_some() {
                self.set(tables, at, level, 0)?;
            }
            done += level_size(level);
        }
        Ok(())
    }

    /// The level at which the walk for `address` ends, and the entry if it is present.
    pub fn lookup(&self, tables: &impl Tables, address: u64) -> (u32, Option<u64>) {
        let mut table = self.root;
        let mut level = self.levels;
        loop {
            let entry = tables.read(table, Self::index(address, level));
            if entry & self.present == 0 {
                return (level, None);
            }
            if level == 1 || entry & LARGE != 0 {
                return (level, Some(entry));
            }
            table = entry & ADDRESS;
            level -= 1;
        }
    }

    /// Sets the entry of `level` for `address`, splitting big pages above it and dropping tables below it.
    fn set(&self, tables: &mut impl Tables, address: u64, level: u32, value: u64) -> Result<(), OutOfPages> {
        let mut table = self.root;
        for above in (level + 1..=self.levels).rev() {
            let index = Self::index(address, above);
            let entry = tables.read(table, index);
            if entry & self.present != 0 && entry & LARGE == 0 {
                table = entry & ADDRESS;
                continue;
            }
            let new = tables.take().ok_or(OutOfPages)?;
            if entry & self.present != 0 {
                let step = level_size(above - 1);
                let bits = entry & !ADDRESS & !if above == 2 { LARGE } else { 0 };
                let base = entry & ADDRESS;
                (0..512).for_each(|n| tables.write(new, n, (base + n as u64 * step) | bits));
            }
            tables.write(table, index, new | self.table_bits);
            table = new;
        }
        let index = Self::index(address, level);
        let old = tables.read(table, index);
        tables.write(table, index, value);
        if level > 1 && old & self.present != 0 && old & LARGE == 0 {
            self.drop_table(tables, old & ADDRESS, level - 1);
        }
        Ok(())
    }

    fn drop_table(&self, tables: &mut impl Tables, table: u64, level: u32) {
        if level > 1 {
            for index in 0..512 {
                let entry = tables.read(table, index);
                if entry & self.present != 0 && entry & LARGE == 0 {
                    self.drop_table(tables, entry & ADDRESS, level - 1);
                }
            }
        }
        tables.give(table);
    }

    /// Gives back every table, the root included.
    pub fn destroy(self, tables: &mut impl Tables) {
        self.drop_table(tables, self.root, self.levels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Memory {
        tables: HashMap<u64, Box<[u64; 512]>>,
        next: u64,
        limit: usize,
    }

    impl Tables for Memory {
        fn read(&self, table: u64, index: usize) -> u64 {
            self.tables[&table][index]
        }
        fn write(&mut self, table: u64, index: usize, value: u64) {
            self.tables.get_mut(&table).unwrap()[index] = value;
        }
        fn take(&mut self) -> Option<u64> {
            if self.tables.len() >= self.limit {
                return None;
            }
            self.next += 0x1000;
            self.tables.insert(self.next, Box::new([0; 512]));
            Some(self.next)
        }
        fn give(&mut self, table: u64) {
            assert!(self.tables.remove(&table).is_some());
        }
    }

    fn new(limit: usize) -> (Memory, PageTable) {
        let mut memory = Memory { limit, ..Memory::default() };
        let root = memory.take().unwrap();
        (memory, PageTable { root, levels: 4, table_bits: 7, present: 1, max_level: 3 })
    }

    fn translate(memory: &Memory, table: &PageTable, address: u64) -> Option<u64> {
        let (level, entry) = table.lookup(memory, address);
        entry.map(|entry| (entry & ADDRESS & !(level_size(level) - 1)) | (address & (level_size(level) - 1)))
    }

    #[test]
    fn maps_with_the_biggest_pages_and_splits_them() {
        let (mut memory, table) = new(100);
        table.map(&mut memory, 0, 0, 0x1_0000_0000, 7, false).unwrap();
        assert_eq!(memory.tables.len(), 2);
        table.unmap(&mut memory, 0x5000_0000, 0x1000).unwrap();
        assert_eq!(translate(&memory, &table, 0x5000_0fff), None);
        assert_eq!(translate(&memory, &table, 0x5000_1234), Some(0x5000_1234));
        assert_eq!(translate(&memory, &table, 0x4fff_ffff), Some(0x4fff_ffff));
        assert_eq!(memory.tables.len(), 4);
        table.map(&mut memory, 0x4000_0000, 0x8000_0000, 0x4000_0000, 7, false).unwrap();
        assert_eq!(memory.tables.len(), 2, "tables below a new big page are given back");
        assert_eq!(translate(&memory, &table, 0x5000_0000), Some(0x9000_0000));
        table.destroy(&mut memory);
        assert!(memory.tables.is_empty());
    }

    #[test]
    fn large_bit_survives_splits_of_gigantic_pages_only() {
        let (mut memory, table) = new(100);
        table.map(&mut memory, 0, 0, 1 << 30, 7, false).unwrap();
        table.unmap(&mut memory, 0x20_0000, 0x20_0000).unwrap();
        assert_eq!(table.lookup(&memory, 0), (2, Some(0x87)));
        table.unmap(&mut memory, 0x1000, 0x1000).unwrap();
        assert_eq!(table.lookup(&memory, 0), (1, Some(0x7)));
        assert_eq!(table.lookup(&memory, 0x40_0000), (2, Some(0x40_0087)));
    }

    #[test]
    fn running_out_of_pages_is_an_error_and_can_be_undone() {
        let (mut memory, table) = new(3);
        assert_eq!(table.map(&mut memory, 0, 0x1000, 0x2000, 7, false), Err(OutOfPages));
        table.unmap(&mut memory, 0, 0x2000).unwrap();
        table.destroy(&mut memory);
        assert!(memory.tables.is_empty());
    }

    #[test]
    fn unmapping_nothing_takes_no_pages() {
        let (mut memory, table) = new(1);
        table.unmap(&mut memory, 0x1234_5000, 0x4000_0000).unwrap();
        assert_eq!(memory.tables.len(), 1);
    }
}
