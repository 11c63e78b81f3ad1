//! Memory as the kernel sees it: references to objects, and access to user pages and page tables through the direct map.
//!
//! Rules:
//! * A [`Ref`] names a live object in kernel-only memory. Objects are only ever accessed under the kernel's exclusion (one CPU in
//!   the kernel, interrupts off), and consist of cells, so shared references to them never conflict.
//! * A [`Page`] names RAM that belongs to users: its contents mean nothing to the kernel and may change at any time.
#![allow(unsafe_code)] // The door between numbers and memory: everything else builds on the types here.

use core::ops::Deref;
use core::ptr::NonNull;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;

/// Where physical memory is visible to the kernel. On the host, "physical" addresses are plain ones.
pub const DIRECT_MAP: u64 = if cfg!(target_os = "none") { 0xffff_8000_0000_0000 } else { 0 };

/// The kernel's address of a physical address.
pub const fn to_virtual(physical: u64) -> u64 {
    physical.wrapping_add(DIRECT_MAP)
}

/// The physical address behind an address in the direct map.
pub const fn to_physical(address: u64) -> u64 {
    address.wrapping_sub(DIRECT_MAP)
}

/// A reference to a kernel object.
#[repr(transparent)]
pub struct Ref<T>(NonNull<T>);

impl<T> Clone for Ref<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Ref<T> {}
impl<T> PartialEq for Ref<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Ref<T> {}

impl<T> Ref<T> {
    /// The object at an address.
    ///
    /// # Safety
    /// A valid `T` lies there, in memory that nobody but the kernel can write, and stays until no `Ref` to it is used any more.
    pub const unsafe fn at(address: u64) -> Option<Ref<T>> {
        match NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize)) {
            Some(pointer) => Some(Ref(pointer)),
            None => None,
        }
    }

    /// The object at an address that is not 0.
    ///
    /// # Safety
    /// As for [`Ref::at`], and the address is not 0.
    #[inline(always)]
    pub const unsafe fn at_nonzero(address: u64) -> Ref<T> {
        // SAFETY: the caller's promise.
        Ref(unsafe { NonNull::new_unchecked(core::ptr::with_exposed_provenance_mut(address as usize)) })
    }

    /// The object's address.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }
}

impl<T> From<&T> for Ref<T> {
    /// A reference to an object that is known by a Rust reference: used for parts of objects, and for static ones.
    fn from(object: &T) -> Ref<T> {
        Ref(NonNull::from(object))
    }
}

impl<T> Deref for Ref<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: `Ref::at` promised a valid object that outlives its uses; all of its fields are cells, and the kernel's
        // exclusion rules out concurrent access.
        unsafe { self.0.as_ref() }
    }
}

/// A page of user RAM, or of a page table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Page(u64);

impl Page {
    /// The page at a physical address.
    ///
    /// # Safety
    /// It is RAM inside the direct map, page aligned, and no kernel object (other than page tables) lies in it.
    pub const unsafe fn at(physical: u64) -> Page {
        Page(physical)
    }

    /// Its physical address.
    pub const fn physical(self) -> u64 {
        self.0
    }

    /// Reads the 64-bit word with this index (modulo the page).
    pub fn read(self, index: usize) -> u64 {
        let pointer = core::ptr::with_exposed_provenance::<u64>(to_virtual(self.0) as usize);
        // SAFETY: the page is mapped RAM (`Page::at`), the index is inside it.
        unsafe { pointer.add(index & 511).read_volatile() }
    }

    /// Whether any of eight 64-bit words, from a multiple of eight on (modulo the page), has one of these bits in its low half.
    pub fn eight_have(self, index: usize, bits: u32) -> bool {
        let words = core::ptr::with_exposed_provenance::<[u32; 2]>(to_virtual(self.0) as usize);
        let any = (0..8).fold(0, |any, offset| {
            // SAFETY: the page is mapped RAM (`Page::at`), the index is inside it.
            any | unsafe { words.add(index & 504 | offset).cast::<u32>().read_volatile() }
        });
        any & bits != 0
    }

    /// Writes the 64-bit word with this index (modulo the page).
    pub fn write(self, index: usize, value: u64) {
        let pointer = core::ptr::with_exposed_provenance_mut::<u64>(to_virtual(self.0) as usize);
        // SAFETY: the page is mapped RAM (`Page::at`), the index is inside it.
        unsafe { pointer.add(index & 511).write_volatile(value) }
    }

    /// Zeroes it.
    pub fn clear(self) {
        let pointer = core::ptr::with_exposed_provenance_mut::<u8>(to_virtual(self.0) as usize);
        // SAFETY: the page is mapped RAM (`Page::at`).
        unsafe { pointer.write_bytes(0, PAGE_SIZE as usize) }
    }

    /// Copies bytes from one page to another (or within one); `count` and the offsets are cut to the pages.
    pub fn copy(from: Page, from_offset: u64, to: Page, to_offset: u64, count: u64) {
        let (from_offset, to_offset) = (from_offset % PAGE_SIZE, to_offset % PAGE_SIZE);
        let count = count.min(PAGE_SIZE - from_offset).min(PAGE_SIZE - to_offset);
        let source = core::ptr::with_exposed_provenance::<u8>((to_virtual(from.0) + from_offset) as usize);
        let target = core::ptr::with_exposed_provenance_mut::<u8>((to_virtual(to.0) + to_offset) as usize);
        // SAFETY: both ranges are inside mapped RAM pages; `copy` allows overlap.
        unsafe { core::ptr::copy(source, target, count as usize) }
    }

    /// Copies bytes of the kernel into the page; the range is cut to the page.
    pub fn copy_in(self, offset: u64, bytes: &[u8]) {
        let offset = offset % PAGE_SIZE;
        let count = bytes.len().min((PAGE_SIZE - offset) as usize);
        let target = core::ptr::with_exposed_provenance_mut::<u8>((to_virtual(self.0) + offset) as usize);
        // SAFETY: the target range is inside a mapped RAM page, which no kernel slice aliases (`Page::at`).
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, count) }
    }

    /// Copies bytes of the page into the kernel; the range is cut to the page.
    pub fn copy_out(self, offset: u64, bytes: &mut [u8]) {
        let offset = offset % PAGE_SIZE;
        let count = bytes.len().min((PAGE_SIZE - offset) as usize);
        let source = core::ptr::with_exposed_provenance::<u8>((to_virtual(self.0) + offset) as usize);
        // SAFETY: the source range is inside a mapped RAM page, which no kernel slice aliases (`Page::at`).
        unsafe { core::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), count) }
    }
}
