//! The heap: one range that the manifest gives, first fit.
#![allow(unsafe_code)] // `GlobalAlloc` is an unsafe interface.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use linked_list_allocator::Heap;

/// The heap and its guard. A server has one thread, so the guard is never contended; if it were (a second thread, or an
/// allocation inside the allocator), the allocation fails rather than waits.
pub(crate) struct ServerHeap {
    taken: AtomicBool,
    heap: UnsafeCell<Heap>,
}

// SAFETY: the heap is touched only between `taken` going from false to true and back.
unsafe impl Sync for ServerHeap {}

#[cfg_attr(target_os = "none", global_allocator)]
pub(crate) static HEAP: ServerHeap = ServerHeap::new();

impl ServerHeap {
    const fn new() -> ServerHeap {
        ServerHeap { taken: AtomicBool::new(false), heap: UnsafeCell::new(Heap::empty()) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Heap) -> T) -> Option<T> {
        if self.taken.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: `taken` was false, so nobody else holds a reference until it is set back below.
        let value = f(unsafe { &mut *self.heap.get() });
        self.taken.store(false, Ordering::Release);
        Some(value)
    }

    /// Gives the heap its memory.
    ///
    /// # Safety
    /// The range is mapped writable, used by nobody else, stays so for ever, and this is called once.
    pub(crate) unsafe fn init(&self, start: *mut u8, bytes: usize) {
        // SAFETY: handed on to our caller.
        self.with(|heap| unsafe { heap.init(start, bytes) });
    }
}

// SAFETY: blocks come from `Heap`, that gives out disjoint blocks of the layout asked for; failure is a null pointer.
unsafe impl GlobalAlloc for ServerHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.with(|heap| heap.allocate_first_fit(layout).ok()).flatten();
        block.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller passes a block of this allocator with its layout. A block that is given back while the
            // heap is taken is lost, which is safe.
            self.with(|heap| unsafe { heap.deallocate(block, layout) });
        }
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
