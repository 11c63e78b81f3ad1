//! Memory that somebody else can write while we look at it: another server, or the other realm.
//!
//! There is no Rust reference to plain data in it. [`Array`] copies elements in and out by relaxed 64-bit atomics;
//! [`Atomics`] types are made of atomics only, so a shared reference to them is sound; [`Mapping::copy_in`] and its
//! siblings move bytes by one instruction; [`Device`] makes each register access exactly one plain `mov`.
//! A torn or changing value is possible by design: whoever reads checks what it got, and reads it once.
#![allow(unsafe_code)] // Raw access to memory that others share.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use ipc::board::{Board, Entry, Orders};
use ipc::shadow::{ConsoleRing, Counters, LinuxHeader, RtHeader, ThreadEntry};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A range of mapped memory, shared with others.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    start: usize,
    bytes: usize,
}

/// Types that consist of atomic integers alone.
///
/// # Safety
/// Every byte belongs to an atomic integer, and every bit pattern is valid.
pub unsafe trait Atomics {}

// SAFETY: nothing but atomic integers and arrays of them (see the contract's layouts).
unsafe impl Atomics for AtomicU32 {}
// SAFETY: as above.
unsafe impl Atomics for AtomicU64 {}
// SAFETY: as above.
unsafe impl Atomics for RtHeader {}
// SAFETY: as above.
unsafe impl Atomics for LinuxHeader {}
// SAFETY: as above.
unsafe impl Atomics for ThreadEntry {}
// SAFETY: as above.
unsafe impl Atomics for ConsoleRing {}
// SAFETY: as above.
unsafe impl Atomics for Counters {}
// SAFETY: as above.
unsafe impl Atomics for Board {}
// SAFETY: as above.
unsafe impl Atomics for Entry {}
// SAFETY: as above.
unsafe impl Atomics for Orders {}
// SAFETY: an array of such.
unsafe impl<T: Atomics, const N: usize> Atomics for [T; N] {}

impl Mapping {
    /// The range that starts at this address.
    ///
    /// # Safety
    /// The range is mapped for ever, starts at a multiple of 8, and is accessed by this program through `Mapping`s alone.
    pub const unsafe fn new(start: usize, bytes: usize) -> Mapping {
        Mapping { start, bytes }
    }

    /// Bytes in it.
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Its address.
    pub const fn address(&self) -> usize {
        self.start
    }

    /// A part of it.
    pub fn part(&self, offset: usize, bytes: usize) -> Option<Mapping> {
        self.check(offset, bytes, 8)?;
        Some(Mapping { start: self.start + offset, bytes })
    }

    /// Something made of atomics in it. (Writing to it faults if the range is mapped read only.)
    pub fn atomics<T: Atomics>(&self, offset: usize) -> Option<&'static T> {
        self.check(offset, size_of::<T>(), align_of::<T>())?;
        // SAFETY: in range, aligned, mapped for ever; `Atomics` makes concurrent change sound and every pattern valid.
        Some(unsafe { &*core::ptr::with_exposed_provenance(self.start + offset) })
    }

    /// Several adjacent such.
    pub fn atomics_slice<T: Atomics>(&self, offset: usize, count: usize) -> Option<&'static [T]> {
        self.check(offset, size_of::<T>().checked_mul(count)?, align_of::<T>())?;
        // SAFETY: as in `atomics`.
        Some(unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(self.start + offset), count) })
    }

    /// An array of plain elements in it.
    pub fn array<T: FromBytes + IntoBytes + Immutable>(&self, offset: usize, count: usize) -> Option<Array<T>> {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8) };
        let words = self.atomics_slice(offset, size_of::<T>().checked_mul(count)? / 8)?;
        Some(Array { words, element: PhantomData })
    }

    /// Device registers in it.
    pub fn device(&self) -> Device {
        Device { start: self.start, bytes: self.bytes }
    }

    /// Copies bytes out of it; `false`: out of range, nothing done.
    pub fn copy_out(&self, offset: usize, destination: &mut [u8]) -> bool {
        if self.check(offset, destination.len(), 1).is_none() {
            return false;
        }
        // SAFETY: both ranges are valid for so many bytes; `move_bytes` bears concurrent change.
        unsafe {
            move_bytes(
                core::ptr::with_exposed_provenance(self.start + offset),
                destination.as_mut_ptr(),
                destination.len(),
            )
        };
        true
    }

    /// Copies bytes into it; `false`: out of range, nothing done.
    pub fn copy_in(&self, offset: usize, source: &[u8]) -> bool {
        if self.check(offset, source.len(), 1).is_none() {
            return false;
        }
        // SAFETY: as above.
        unsafe {
            move_bytes(source.as_ptr(), core::ptr::with_exposed_provenance_mut(self.start + offset), source.len())
        };
        true
    }

    /// Copies within it (the ranges must not overlap); `false`: out of range, nothing done.
    pub fn copy_within(&self, from: usize, to: usize, bytes: usize) -> bool {
        if self.check(from, bytes, 1).is_none() || self.check(to, bytes, 1).is_none() || from.abs_diff(to) < bytes {
            return false;
        }
        // SAFETY: as above.
        unsafe {
            let source = core::ptr::with_exposed_provenance(self.start + from);
            move_bytes(source, core::ptr::with_exposed_provenance_mut(self.start + to), bytes);
        }
        true
    }

    /// Fills bytes; `false`: out of range, nothing done.
    pub fn fill(&self, offset: usize, bytes: usize, value: u8) -> bool {
        if self.check(offset, bytes, 1).is_none() {
            return false;
        }
        let start: *mut u8 = core::ptr::with_exposed_provenance_mut(self.start + offset);
        // SAFETY: in range; the instruction writes exactly so many bytes and bears concurrent change.
        unsafe {
            core::arch::asm!("rep stosb", inout("rdi") start => _, inout("rcx") bytes => _, in("al") value, options(nostack))
        };
        true
    }

    fn check(&self, offset: usize, bytes: usize, align: usize) -> Option<()> {
        let end = offset.checked_add(bytes)?;
        (end <= self.bytes && (self.start + offset).is_multiple_of(align)).then_some(())
    }
}

/// Moves bytes by one instruction, outside of the language's memory model: concurrent change gives mixed bytes, nothing worse.
///
/// # Safety
/// Both ranges are mapped, the destination writable, and they do not overlap.
unsafe fn move_bytes(source: *const u8, destination: *mut u8, bytes: usize) {
    // SAFETY: the caller vouches for the ranges; the direction flag is clear by the calling convention.
    unsafe {
        core::arch::asm!("rep movsb", inout("rsi") source => _, inout("rdi") destination => _, inout("rcx") bytes => _, options(nostack));
    }
}

/// Plain elements in shared memory; they are copied in and out.
#[derive(Debug)]
pub struct Array<T> {
    words: &'static [AtomicU64],
    element: PhantomData<fn() -> T>,
}

impl<T: FromBytes + IntoBytes + Immutable> Array<T> {
    const WORDS: usize = size_of::<T>() / 8;

    /// Elements.
    pub fn len(&self) -> usize {
        self.words.len() / Self::WORDS
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    fn element(&self, index: usize) -> &[AtomicU64] {
        &self.words[index * Self::WORDS..][..Self::WORDS]
    }

    /// A copy of element `index`.
    ///
    /// # Panics
    /// If the index is out of range: indices from others are reduced before.
    pub fn read(&self, index: usize) -> T {
        let mut value = T::new_zeroed();
        for (chunk, word) in value.as_mut_bytes().chunks_exact_mut(8).zip(self.element(index)) {
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        value
    }

    /// Sets element `index`.
    ///
    /// # Panics
    /// As `read`.
    pub fn write(&self, index: usize, value: &T) {
        for (chunk, word) in value.as_bytes().chunks_exact(8).zip(self.element(index)) {
            let bytes = chunk.try_into().unwrap_or_default();
            word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
    }
}

/// Device registers, 32 bits wide. Each access is one `mov` with a register operand: the hypervisor decodes no other.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    start: usize,
    bytes: usize,
}

impl Device {
    fn register(&self, offset: usize) -> *mut u32 {
        assert!(offset.is_multiple_of(4) && offset < self.bytes, "register offset {offset:#x}");
        core::ptr::with_exposed_provenance_mut(self.start + offset)
    }

    /// Reads the register at this offset.
    pub fn read(&self, offset: usize) -> u32 {
        let value: u32;
        let register = self.register(offset);
        // SAFETY: the register is mapped; reading it changes no memory of ours.
        unsafe {
            core::arch::asm!("mov {value:e}, [{register}]", register = in(reg) register, value = out(reg) value, options(nostack))
        };
        value
    }

    /// Writes the register at this offset. Everything written before is visible before it.
    pub fn write(&self, offset: usize, value: u32) {
        let register = self.register(offset);
        // SAFETY: the register is mapped. What the device then does is what the manifest grants this server.
        unsafe {
            core::arch::asm!("mov [{register}], {value:e}", register = in(reg) register, value = in(reg) value, options(nostack))
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::shadow::Response;

    fn mapping(bytes: usize) -> Mapping {
        let memory: &'static [AtomicU64] = Vec::leak((0..bytes / 8).map(|_| AtomicU64::new(0)).collect());
        // SAFETY: leaked, aligned, and used through the mapping alone.
        unsafe { Mapping::new(memory.as_ptr().expose_provenance(), bytes) }
    }

    #[test]
    fn elements_round_trip() {
        let array = mapping(4096).array::<Response>(64, 4).unwrap();
        let response = Response { id: 7, value: -5, reserved: [1, 2], ..Response::default() };
        array.write(3, &response);
        assert_eq!(array.read(3).as_bytes(), response.as_bytes());
        assert_eq!(array.read(2).id, 0);
        assert_eq!(array.len(), 4);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mapping = mapping(4096);
        assert!(mapping.array::<Response>(64, 64).is_none());
        assert!(mapping.array::<Response>(usize::MAX, 1).is_none());
        assert!(mapping.array::<Response>(4, 1).is_none());
        assert!(mapping.atomics::<AtomicU64>(4096).is_none());
        assert!(!mapping.copy_in(4090, &[0; 7]));
        assert!(!mapping.copy_within(0, 4, 8));
        assert!(!mapping.fill(1, 4096, 0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "instructions of its own")]
    fn bytes_move() {
        let mapping = mapping(64);
        assert!(mapping.copy_in(3, b"abc") && mapping.copy_within(3, 20, 3) && mapping.fill(21, 1, b'x'));
        let mut bytes = [0; 3];
        assert!(mapping.copy_out(20, &mut bytes));
        assert_eq!(&bytes, b"axc");
    }

    #[test]
    #[cfg_attr(miri, ignore = "instructions of its own")]
    fn registers_are_words() {
        let mapping = mapping(32);
        mapping.device().write(12, 5);
        assert_eq!(mapping.device().read(12), 5);
    }
}
