//! Which model-specific registers a cell may touch.
//!
//! The root cell owned the machine and gets it back: it may do everything but what would take the machine away from the
//! hypervisor. Other cells get a list of registers that belong to the CPU they own; everything else is #GP.

/// What happens on an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Reads go to the CPU.
    pub read: bool,
    /// Writes go to the CPU.
    pub write: bool,
}

const NONE: Rights = Rights { read: false, write: false };
const READ: Rights = Rights { read: true, write: false };
const ALL: Rights = Rights { read: true, write: true };

/// Numbers that more than one place needs.
pub mod number {
    /// APIC base.
    pub const APIC_BASE: u32 = 0x1b;
    /// Time stamp counter.
    pub const TSC: u32 = 0x10;
    /// What a processor can note of machine checks.
    pub const MCG_CAP: u32 = 0x179;
    /// Page attribute table.
    pub const PAT: u32 = 0x277;
    /// MTRR default type.
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    /// First of the x2APIC registers.
    pub const X2APIC_FIRST: u32 = 0x800;
    /// Last of the x2APIC registers.
    pub const X2APIC_LAST: u32 = 0x8ff;
    /// x2APIC interrupt command.
    pub const X2APIC_ICR: u32 = 0x830;
    /// Extended features.
    pub const EFER: u32 = 0xc000_0080;
}

/// The bits of a bitmap that cover all bitmapped MSRs: low, AMD64, AMD.
pub const RANGES: [core::ops::RangeInclusive<u32>; 3] =
    [0..=0x1fff, 0xc000_0000..=0xc000_1fff, 0xc001_0000..=0xc001_1fff];

/// What the root cell may do.
#[must_use]
pub const fn root(msr: u32, x2apic: bool) -> Rights {
    match msr {
        // PAT belongs to the guest under nested paging.
        number::PAT => ALL,
        // Caching of the whole machine stays as it is; a re-started CPU switches it off and on again.
        number::MTRR_DEF_TYPE => NONE,
        0x200..=0x26f => READ,
        number::APIC_BASE => READ,
        number::X2APIC_ICR if x2apic => READ,
        number::EFER => NONE,
        // System configuration and the memory map; virtualisation and its save area.
        0xc001_0010 | 0xc001_0016..=0xc001_001a | 0xc001_001d => READ,
        0xc001_0111..=0xc001_0118 => NONE,
        _ => ALL,
    }
}

/// What another cell may do.
#[must_use]
pub const fn cell(msr: u32, x2apic: bool) -> Rights {
    match msr {
        0x174..=0x176 => ALL,
        0x48 | 0x49 => ALL,
        0x6e0 => ALL,
        0xc000_0081..=0xc000_0084 | 0xc000_0100..=0xc000_0103 => ALL,
        number::X2APIC_ICR => Rights { read: x2apic, write: false },
        // Local vectors could be INIT or SMI: looked at. The timer's is too, which is written once.
        0x82f | 0x832..=0x837 => Rights { read: x2apic, write: false },
        number::X2APIC_FIRST..=0x83f => Rights { read: x2apic, write: x2apic },
        number::TSC | number::APIC_BASE | 0x8b | 0xce | 0xe7 | 0xe8 | 0xfe | 0x10a | 0x1a0 | 0x17a => READ,
        // No bank is a cell's: some are shared by all processors of a chip. It is told that there are none.
        number::MCG_CAP => NONE,
        0x200..=0x20f | 0x250..=0x26f => READ,
        // System configuration and that of the north bridge, which Linux reads without asking whether it may.
        0xc001_0010 | NORTH_BRIDGE => READ,
        0xc001_0015 | 0xc001_0062..=0xc001_006b | 0xc001_1029 => READ,
        _ => NONE,
    }
}

/// Configuration of the north bridge. All of a chip's processors share it.
const NORTH_BRIDGE: u32 = 0xc001_001f;

/// Writes that are accepted and change nothing: who makes them does not expect that they can fail.
#[must_use]
pub const fn write_ignored(msr: u32, root: bool) -> bool {
    if root {
        // MTRRs: caching of the machine stays as it is.
        0x200 <= msr && msr <= 0x26f
    } else {
        msr == NORTH_BRIDGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_switches_virtualisation_off() {
        for msr in [0xc000_0080, 0xc001_0114, 0xc001_0117] {
            assert_eq!(root(msr, false), NONE);
            assert_eq!(cell(msr, false), NONE);
        }
        assert!(!root(number::APIC_BASE, false).write);
    }

    #[test]
    fn cells_keep_to_their_cpu() {
        assert_eq!(cell(0xc000_0102, false), ALL);
        assert_eq!(cell(0xc8f, false), NONE, "cache allocation is shared");
        assert_eq!(cell(number::TSC, false), READ);
        assert_eq!(cell(0x80b, true), ALL);
        assert_eq!(cell(0x80b, false), NONE, "emulated without x2APIC");
        assert_eq!(cell(number::X2APIC_ICR, true), READ);
        assert_eq!(cell(0x840, true), NONE);
        assert_eq!(cell(0x838, true), ALL, "the timer's count takes no exit");
        assert_eq!(cell(0x835, true), READ, "a local vector could be an INIT");
        assert_eq!([cell(number::MCG_CAP, false), cell(0x401, false), cell(0xc000_2001, false)], [NONE; 3]);
        assert!(write_ignored(NORTH_BRIDGE, false) && !write_ignored(0x250, false), "no fixed range is a cell's");
    }
}
