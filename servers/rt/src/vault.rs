//! The vault: memory that init keeps over a crash and hands to the next instance.
//!
//! It holds one plain structure. A head says which version of it lies there and whether it was left in the middle of a
//! change; the server decides what it believes of what it finds.
#![allow(unsafe_code)] // A reference into memory at a fixed address.

use core::sync::atomic::{Ordering, compiler_fence};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const MAGIC: u64 = u64::from_le_bytes(*b"RTVAULT1");

/// The vault's memory, not yet opened.
#[derive(Debug)]
pub struct Vault {
    bytes: &'static mut [u8],
}

/// Head of an opened vault.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    magic: u64,
    version: u64,
    size: u64,
    /// Odd while the contents are being changed.
    changes: u64,
}

/// An opened vault.
#[derive(Debug)]
pub struct Kept<T: 'static> {
    head: &'static mut Head,
    value: &'static mut T,
    found: Found,
}

/// What the vault held when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing of this version: it is zeroes now.
    Nothing,
    /// What the last instance left, between two changes.
    Whole,
    /// What the last instance left, in the middle of a change.
    Torn,
}

impl Vault {
    /// The vault at this address.
    ///
    /// # Safety
    /// The range is page aligned, mapped writable for ever, and used by nobody else.
    pub(crate) unsafe fn new(address: usize, bytes: usize) -> Vault {
        // SAFETY: handed on to our caller.
        let bytes = unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(address), bytes) };
        Vault { bytes }
    }

    /// Its address and bytes, for a heap that is kept there ([`crate::checkpoint`]).
    pub(crate) fn into_range(self) -> (usize, usize) {
        let bytes = self.bytes.len();
        (self.bytes.as_mut_ptr().expose_provenance(), bytes)
    }

    /// Opens it as a structure of this version. `None`: it is too small.
    pub fn open<T: FromBytes + IntoBytes + KnownLayout + Immutable>(self, version: u64) -> Option<Kept<T>> {
        let (head, rest) = Head::mut_from_prefix(self.bytes).ok()?;
        let (value, _) = T::mut_from_prefix(rest).ok()?;
        let size = size_of::<T>() as u64;
        let found = match (head.magic, head.version, head.size, head.changes % 2) {
            (MAGIC, v, s, 0) if v == version && s == size => Found::Whole,
            (MAGIC, v, s, 1) if v == version && s == size => Found::Torn,
            _ => {
                value.as_mut_bytes().fill(0);
                *head = Head { magic: MAGIC, version, size, changes: 0 };
                Found::Nothing
            }
        };
        Some(Kept { head, value, found })
    }
}

impl<T> Kept<T> {
    /// What it held when it was opened.
    pub fn found(&self) -> Found {
        self.found
    }

    /// The contents.
    pub fn get(&self) -> &T {
        self.value
    }

    /// The contents, for good: for a server that orders its own changes so that any crash leaves something to go on from.
    pub fn into_inner(self) -> &'static mut T {
        self.value
    }

    /// Changes the contents; a crash within `change` leaves them marked as torn.
    pub fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        self.head.changes |= 1;
        // The mark must be in memory before the first change and until after the last, in program order: a crash is of this thread.
        compiler_fence(Ordering::SeqCst);
        let result = change(self.value);
        compiler_fence(Ordering::SeqCst);
        self.head.changes = self.head.changes.wrapping_add(1);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(memory: &mut [u64]) -> Vault {
        // SAFETY: the tests use one vault at a time, within the life of the memory.
        unsafe { Vault::new(memory.as_mut_ptr().expose_provenance(), memory.len() * 8) }
    }

    #[test]
    fn contents_survive_and_torn_ones_are_known() {
        let mut memory = vec![u64::MAX; 64];
        let mut kept = vault(&mut memory).open::<[u64; 4]>(1).unwrap();
        assert_eq!((kept.found(), *kept.get()), (Found::Nothing, [0; 4]));
        kept.change(|value| value[2] = 9);
        let mut kept = vault(&mut memory).open::<[u64; 4]>(1).unwrap();
        assert_eq!((kept.found(), kept.get()[2]), (Found::Whole, 9));
        let crash = std::panic::AssertUnwindSafe(|| {
            kept.change(|value| {
                value[0] = 1;
                panic!("in the middle of a change");
            })
        });
        assert!(std::panic::catch_unwind(crash).is_err());
        assert_eq!(vault(&mut memory).open::<[u64; 4]>(1).unwrap().found(), Found::Torn);
        assert_eq!(vault(&mut memory).open::<[u64; 4]>(2).unwrap().found(), Found::Nothing);
        assert!(vault(&mut memory).open::<[u64; 64]>(2).is_none());
    }
}
