//! The heap: one range that the manifest gives, first fit; or, if the server keeps its heap over a crash, one in the vault.
#![allow(unsafe_code)] // `GlobalAlloc` is an unsafe interface.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use linked_list_allocator::Heap;

/// What the allocator writes behind a block that it gives out, at most.
const HOLE: usize = 64;

/// A heap in the vault, at its own start ([`crate::checkpoint`]).
pub(crate) struct Kept {
    heap: Heap,
    /// Nothing from here on was ever written.
    pub(crate) top: usize,
    /// Address of the state that hangs on it.
    pub(crate) root: usize,
}

impl Kept {
    /// An empty heap of this memory.
    ///
    /// # Safety
    /// The range is mapped writable, used by nobody else, and stays so as long as the heap is used.
    pub(crate) unsafe fn new(start: usize, bytes: usize) -> Kept {
        // SAFETY: handed on to our caller.
        let heap = unsafe { Heap::new(core::ptr::with_exposed_provenance_mut(start), bytes) };
        Kept { heap, top: start + HOLE, root: 0 }
    }

    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let block = self.heap.allocate_first_fit(layout).ok()?;
        self.top = self.top.max(block.addr().get() + layout.size() + HOLE);
        Some(block)
    }
}

/// Where blocks come from.
struct Heaps {
    own: Heap,
    kept: Option<(NonNull<Kept>, Range<usize>)>,
}

/// The heap and its guard. A server has one thread, so the guard is never contended; if it were (a second thread, or an
/// allocation inside the allocator), the allocation fails rather than waits.
pub(crate) struct ServerHeap {
    taken: AtomicBool,
    heaps: UnsafeCell<Heaps>,
}

// SAFETY: the heaps are touched only between `taken` going from false to true and back.
unsafe impl Sync for ServerHeap {}

#[cfg_attr(target_os = "none", global_allocator)]
pub(crate) static HEAP: ServerHeap = ServerHeap::new();

impl ServerHeap {
    const fn new() -> ServerHeap {
        ServerHeap { taken: AtomicBool::new(false), heaps: UnsafeCell::new(Heaps { own: Heap::empty(), kept: None }) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Heaps) -> T) -> Option<T> {
        if self.taken.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: `taken` was false, so nobody else holds a reference until it is set back below.
        let value = f(unsafe { &mut *self.heaps.get() });
        self.taken.store(false, Ordering::Release);
        Some(value)
    }

    /// Gives the heap its memory.
    ///
    /// # Safety
    /// The range is mapped writable, used by nobody else, stays so for ever, and this is called once.
    pub(crate) unsafe fn init(&self, start: *mut u8, bytes: usize) {
        // SAFETY: handed on to our caller.
        self.with(|heaps| unsafe { heaps.own.init(start, bytes) });
    }

    /// From now on blocks come from this heap; those given out before still go back where they came from.
    ///
    /// # Safety
    /// A valid heap lies there, all of its blocks are in the range, it stays for ever, and is used through this alone.
    pub(crate) unsafe fn keep(&self, kept: *mut Kept, range: Range<usize>) {
        self.with(|heaps| heaps.kept = NonNull::new(kept).map(|kept| (kept, range)));
    }
}

// SAFETY: blocks come from `Heap`, that gives out disjoint blocks of the layout asked for; failure is a null pointer.
unsafe impl GlobalAlloc for ServerHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.with(|heaps| match &mut heaps.kept {
            // SAFETY: valid and used here alone, as `keep` was promised.
            Some((kept, _)) => unsafe { kept.as_mut() }.allocate(layout),
            None => heaps.own.allocate_first_fit(layout).ok(),
        });
        block.flatten().map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(block) = NonNull::new(block) else { return };
        // A block that is given back while the heap is taken is lost, which is safe.
        self.with(|heaps| {
            let heap = match &mut heaps.kept {
                // SAFETY: valid and used here alone, as `keep` was promised.
                Some((kept, range)) if range.contains(&block.addr().get()) => &mut unsafe { kept.as_mut() }.heap,
                _ => &mut heaps.own,
            };
            // SAFETY: the caller passes a block of this allocator with its layout; its address says of which heap.
            unsafe { heap.deallocate(block, layout) }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_and_go() {
        let heap = ServerHeap::new();
        let memory = Vec::leak(vec![0u64; 1024]);
        let layout = Layout::from_size_align(1000, 16).unwrap();
        // SAFETY: the memory is ours and leaked; layouts match.
        unsafe {
            assert!(heap.alloc(layout).is_null());
            heap.init(memory.as_mut_ptr().cast(), 8192);
            for _ in 0..100 {
                let a = heap.alloc(layout);
                let b = heap.alloc(layout);
                assert!(!a.is_null() && !b.is_null() && a != b);
                heap.dealloc(a, layout);
                heap.dealloc(b, layout);
            }
            assert!(heap.alloc(Layout::from_size_align(9000, 16).unwrap()).is_null());
        }
    }
}
