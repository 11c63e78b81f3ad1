//! Entries of page tables: their bits, and which of them a capability and a protection allow.

use crate::cap::{Slot, slot::memory_kind};
use crate::memory::PAGE_SIZE;
use ipc::{Error, Protection, Rights};

/// Bits of page-table entries.
pub mod bits {
    #![allow(missing_docs)]
    pub const PRESENT: u64 = 1;
    pub const WRITE: u64 = 2;
    pub const USER: u64 = 4;
    pub const UNCACHED: u64 = 0x18;
    /// The processor sets it when it writes through the entry; the kernel, when it writes for the user.
    pub const DIRTY: u64 = 0x40;
    pub const LARGE: u64 = 0x80;
    pub const GLOBAL: u64 = 0x100;
    /// Software: the capability that mapped the page allows writing, executing.
    pub const MAY_WRITE: u64 = 0x200;
    pub const MAY_EXECUTE: u64 = 0x400;
    pub const NO_EXECUTE: u64 = 1 << 63;
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// In an entry that points to a last-level table: how many pages that maps.
    pub const COUNT_ONE: u64 = 1 << 52;
    pub const COUNT: u64 = 0x3ff << 52;
}

/// Entry bits for pages of a Frame, without address; checks that the pages are in it and that the capability allows the protection.
pub fn of_frame(frame: &Slot, first: u64, pages: u64, protection: u64) -> Result<u64, Error> {
    if first.checked_add(pages).is_none_or(|end| end > frame.extra() / PAGE_SIZE) {
        return Err(Error::InvalidArgument);
    }
    let rights = frame.rights();
    if !rights.contains(Rights::READ) {
        return Err(Error::MissingRights);
    }
    let mut limits = 0;
    if rights.contains(Rights::WRITE) {
        limits |= bits::MAY_WRITE;
    }
    if rights.contains(Rights::EXECUTE) {
        limits |= bits::MAY_EXECUTE;
    }
    if frame.memory_kind() == memory_kind::DEVICE {
        limits |= bits::UNCACHED;
    }
    flags(protection, limits)
}

/// Entry bits for a protection (of small pages), within what the limits (software bits, and uncached for devices) allow.
pub fn flags(protection: u64, limits: u64) -> Result<u64, Error> {
    let protection = u8::try_from(protection).ok().and_then(Protection::from_bits).ok_or(Error::InvalidArgument)?;
    if !protection.is_legal() || protection.contains(Protection::LARGE) {
        return Err(Error::InvalidArgument);
    }
    let mut flags = bits::PRESENT | bits::USER | limits;
    if protection.contains(Protection::WRITE) {
        if limits & bits::MAY_WRITE == 0 {
            return Err(Error::MissingRights);
        }
        flags |= bits::WRITE;
    }
    if protection.contains(Protection::EXECUTE) {
        if limits & bits::MAY_EXECUTE == 0 {
            return Err(Error::MissingRights);
        }
    } else {
        flags |= bits::NO_EXECUTE;
    }
    if protection.contains(Protection::UNCACHED) {
        flags |= bits::UNCACHED;
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_writable_and_executable() {
        let all = bits::MAY_WRITE | bits::MAY_EXECUTE;
        for raw in 0..=255 {
            if let Ok(flags) = flags(raw, all) {
                assert!(flags & bits::WRITE == 0 || flags & bits::NO_EXECUTE != 0, "{raw:#x}");
            }
        }
        assert_eq!(flags(3, bits::MAY_EXECUTE), Err(Error::MissingRights));
        assert_eq!(flags(5, bits::MAY_WRITE), Err(Error::MissingRights));
        assert_eq!(flags(256 + 1, all), Err(Error::InvalidArgument));
    }
}
