//! The application pool as bytes. Applications and Linux write it at any time, so nothing in here is ever a Rust
//! reference to plain data: bytes are copied in and out, and words that are shared on purpose are atomics.
#![allow(unsafe_code)] // Raw access to memory that others write: the one place for it.

use super::PAGE;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64};

/// The pool, mapped whole in this address space.
pub struct Pool {
    base: NonNull<u8>,
    pages: u32,
}

impl Pool {
    /// The pool at `base`.
    ///
    /// # Safety
    /// `base` is page aligned, and `pages` pages from it on stay mapped readable and writable for as long as the value lives;
    /// no Rust reference to that memory exists elsewhere.
    pub unsafe fn new(base: NonNull<u8>, pages: u32) -> Pool {
        Pool { base, pages }
    }

    /// Pages in all.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Where `bytes` bytes at `offset` in the page lie. Panics if they are not inside the pool: page numbers come from
    /// the allocator only, never from a program.
    fn at(&self, page: u32, offset: usize, bytes: usize) -> *mut u8 {
        let start = page as usize * PAGE as usize + offset;
        assert!(offset <= PAGE as usize && start + bytes <= self.pages as usize * PAGE as usize, "outside the pool");
        self.base.as_ptr().wrapping_add(start)
    }

    /// Copies bytes out.
    pub fn read(&self, page: u32, offset: usize, out: &mut [u8]) {
        let from = self.at(page, offset, out.len());
        // SAFETY: `at` checked the range; the pool is mapped; `out` is ours, so the two do not overlap. Bytes that change
        // meanwhile give a mixture, which every reader must take for hostile input anyway.
        unsafe { core::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) }
    }

    /// Copies bytes in.
    pub fn write(&self, page: u32, offset: usize, bytes: &[u8]) {
        let to = self.at(page, offset, bytes.len());
        // SAFETY: as in `read`, the other way round.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Zeroes a part of a page.
    pub fn zero(&self, page: u32, offset: usize, bytes: usize) {
        let to = self.at(page, offset, bytes);
        // SAFETY: `at` checked the range and the pool is mapped.
        unsafe { core::ptr::write_bytes(to, 0, bytes) }
    }

    /// Copies a page.
    pub fn copy(&self, from: u32, to: u32) {
        let (from, to) = (self.at(from, 0, PAGE as usize), self.at(to, 0, PAGE as usize));
        // SAFETY: both pages are in the pool; `copy` allows them to be the same.
        unsafe { core::ptr::copy(from, to, PAGE as usize) }
    }

    /// A 32-bit word, as a futex sees it. `offset` must be a multiple of 4.
    pub fn word(&self, page: u32, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4));
        // SAFETY: inside the pool, aligned (the base is page aligned), mapped as long as `self`; only accessed atomically.
        unsafe { AtomicU32::from_ptr(self.at(page, offset, 4).cast()) }
    }

    /// A 64-bit word. `offset` must be a multiple of 8.
    pub fn long(&self, page: u32, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8));
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(self.at(page, offset, 8).cast()) }
    }
}

/// 64-bit words that another realm reads or writes.
pub type Words = &'static [AtomicU64];

#[cfg(test)]
pub mod testing {
    //! Pools and words on the heap.
    use super::*;

    /// A pool that lives for ever.
    pub fn pool(pages: u32) -> Pool {
        let layout = std::alloc::Layout::from_size_align(pages as usize * PAGE as usize, PAGE as usize).unwrap();
        // SAFETY: the layout is not empty; the memory is never freed.
        unsafe { Pool::new(NonNull::new(std::alloc::alloc(layout)).unwrap(), pages) }
    }

    /// Words that live for ever.
    pub fn words(count: usize) -> Words {
        Vec::leak((0..count).map(|_| AtomicU64::new(0)).collect())
    }
}
