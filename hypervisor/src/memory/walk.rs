//! Where a guest's linear address leads in its own physical memory: needed to fetch an instruction that must be emulated.
//!
//! The guest's tables are hostile and may change meanwhile: the walk ends after at most five reads, and whatever it yields is
//! only used to read from the guest's own memory.

/// What decides how a guest's linear addresses are translated.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestPaging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl GuestPaging {
    /// Translates `address`. `read` reads 8 bytes of guest-physical memory (4 of them count for the oldest format), or fails.
    pub fn translate(&self, address: u64, mut read: impl FnMut(u64) -> Option<u64>) -> Option<u64> {
        if self.cr0 & CR0_PG == 0 {
            return Some(address & 0xffff_ffff);
        }
        if self.cr4 & CR4_PAE == 0 {
            return self.two_level(address & 0xffff_ffff, read);
        }
        let (mut table, top) = match (self.efer & EFER_LMA != 0, self.cr4 & CR4_LA57 != 0) {
            (false, _) => (self.cr3 & 0xffff_ffe0, 3),
            (true, false) => (self.cr3 & ADDRESS, 4),
            (true, true) => (self.cr3 & ADDRESS, 5),
        };
        let address = if top == 3 { address & 0xffff_ffff } else { address };
        let mut level = top;
        loop {
            let shift = 12 + 9 * (level - 1);
            let entry = read(table + (address >> shift & 511) * 8)?;
            if entry & PRESENT == 0 {
                return None;
            }
            let large = entry & LARGE != 0 && (level == 2 || level == 3 && top > 3);
            if level == 1 || large {
                let page = (1 << shift) - 1;
                return Some(entry & ADDRESS & !page | address & page);
            }
            table = entry & ADDRESS;
            level -= 1;
        }
    }

    fn two_level(&self, address: u64, mut read: impl FnMut(u64) -> Option<u64>) -> Option<u64> {
        let mut word = |at: u64| read(at).map(|value| value & 0xffff_ffff).filter(|value| value & PRESENT != 0);
        let directory = word((self.cr3 & 0xffff_f000) + (address >> 22) * 4)?;
        if directory & LARGE != 0 && self.cr4 & CR4_PSE != 0 {
            return Some((directory & 0xffc0_0000) | (directory >> 13 & 0xff) << 32 | address & 0x3f_ffff);
        }
        let entry = word((directory & 0xffff_f000) + (address >> 12 & 0x3ff) * 4)?;
        Some(entry & 0xffff_f000 | address & 0xfff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn long_mode(cr3: u64) -> GuestPaging {
        GuestPaging { cr0: CR0_PG | 1, cr3, cr4: CR4_PAE, efer: EFER_LMA }
    }

    #[test]
    fn no_paging_is_identity() {
        assert_eq!(GuestPaging::default().translate(0x12_3456, |_| None), Some(0x12_3456));
    }

    #[test]
    fn four_levels_with_pages_of_all_sizes() {
        let memory = HashMap::from([
            (0x1000 + 511 * 8, 0x2003u64),
            (0x2000 + 510 * 8, 0x3003),
            (0x2000, 0x4000_0083),
            (0x3000, 0x80_0083),
            (0x3008, 0x4003),
            (0x4000 + 5 * 8, 0x8000_0000_0123_4003),
        ]);
        let read = |at: u64| Some(memory.get(&at).copied().unwrap_or(0));
        let guest = long_mode(0x1018);
        assert_eq!(guest.translate(0xffff_ffff_8000_1234, read), Some(0x80_1234));
        assert_eq!(guest.translate(0xffff_ffff_8020_5678, read), Some(0x0123_4678));
        assert_eq!(guest.translate(0xffff_ff80_1234_5678, read), Some(0x5234_5678));
        assert_eq!(guest.translate(0x1000, read), None);
        assert_eq!(guest.translate(0x1000, |_| None), None);
    }

    #[test]
    fn old_formats() {
        let memory = HashMap::from([(0x1000u64, 0x2003u64), (0x1004, 0x0040_0083), (0x2000 + 8 * 4, 0x5_5003)]);
        let read = |at: u64| Some(memory.get(&at).copied().unwrap_or(0) | 0xdead_0000_0000_0000);
        let guest = GuestPaging { cr0: CR0_PG, cr3: 0x1000, cr4: CR4_PSE, efer: 0 };
        assert_eq!(guest.translate(0x8123, read), Some(0x5_5123));
        assert_eq!(guest.translate(0x0041_2345, read), Some(0x0041_2345));
        assert_eq!(guest.translate(0x9000, read), None);
        let pae = HashMap::from([(0x1020u64, 0x2001u64), (0x2000 + 8, 0x60_0083)]);
        let guest = GuestPaging { cr0: CR0_PG, cr3: 0x1020, cr4: CR4_PAE, efer: 0 };
        assert_eq!(guest.translate(0x20_0042, |at| pae.get(&at).copied()), Some(0x60_0042));
    }
}
