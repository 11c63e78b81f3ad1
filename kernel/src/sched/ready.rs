//! The ready queues: one per priority, and a bitmap that finds the highest one in constant time.

use crate::list::List;
use crate::memory::Ref;
use crate::object::thread::{InQueue, Thread};
use core::cell::Cell;

/// Ready queues.
pub struct Ready {
    /// The highest priority at which somebody is ready; -1: nobody is.
    top: Cell<i16>,
    /// One bit for each word of the bitmap that is not 0.
    summary: Cell<u32>,
    /// One bit for each queue that is not empty.
    bitmap: [Cell<u64>; 4],
    queues: [List<InQueue>; 256],
}

impl Ready {
    /// Nobody is ready.
    pub const fn new() -> Ready {
        Ready {
            top: Cell::new(-1),
            summary: Cell::new(0),
            bitmap: [const { Cell::new(0) }; 4],
            queues: [const { List::new() }; 256],
        }
    }

    /// Adds a thread at the end, or at the front, of the queue of its priority.
    pub fn push(&self, thread: Ref<Thread>, front: bool) {
        let priority = thread.priority();
        thread.queued.set(true);
        thread.queued_priority.set(priority);
        let queue = &self.queues[usize::from(priority)];
        if front {
            queue.push_front(thread)
        } else {
            queue.push_back(thread)
        }
        if i16::from(priority) > self.top.get() {
            self.top.set(priority.into());
        }
        let word = &self.bitmap[usize::from(priority >> 6)];
        word.set(word.get() | 1 << (priority & 63));
        self.summary.set(self.summary.get() | 1 << (priority >> 6));
    }

    /// Takes out a thread that is in.
    pub fn remove(&self, thread: Ref<Thread>) {
        let priority = thread.queued_priority.get();
        let queue = &self.queues[usize::from(priority)];
        queue.remove(thread);
        thread.queued.set(false);
        if queue.is_empty() {
            let word = &self.bitmap[usize::from(priority >> 6)];
            word.set(word.get() & !(1 << (priority & 63)));
            if word.get() == 0 {
                self.summary.set(self.summary.get() & !(1 << (priority >> 6)));
            }
            self.top.set(self.find());
        }
    }

    /// Whether somebody of at least this priority is ready.
    #[inline(always)]
    pub fn reaches(&self, priority: u8) -> bool {
        self.top.get() >= i16::from(priority)
    }

    /// Whether somebody of a higher priority is ready, or, if `equals`, of the same.
    #[inline(always)]
    pub fn reaches_over(&self, priority: u8, equals: bool) -> bool {
        self.top.get() > i16::from(priority) - i16::from(equals)
    }

    /// The highest priority at which somebody is ready.
    #[inline]
    pub fn highest(&self) -> Option<u8> {
        u8::try_from(self.top.get()).ok()
    }

    /// Finds it in the bitmap.
    fn find(&self) -> i16 {
        let Some(index) = self.summary.get().checked_ilog2() else { return -1 };
        let bit = self.bitmap[index as usize & 3].get().checked_ilog2().unwrap_or(0);
        (index * 64 + bit) as i16
    }

    /// Calls `visit` for every thread, after checking that it is where it belongs.
    #[cfg(any(test, feature = "invariants"))]
    pub fn check(&self, visit: &mut dyn FnMut(Ref<Thread>)) {
        for (priority, queue) in self.queues.iter().enumerate() {
            let (word, bit) = (&self.bitmap[priority >> 6], 1 << (priority & 63));
            assert!((word.get() & bit != 0) != queue.is_empty(), "the bitmap is wrong about priority {priority}");
            assert!((self.summary.get() & 1 << (priority >> 6) != 0) == (word.get() != 0), "the summary is wrong");
            let mut next = queue.first();
            while let Some(thread) = next {
                assert!(thread.queued.get() && usize::from(thread.queued_priority.get()) == priority);
                visit(thread);
                next = queue.after(thread);
            }
        }
    }

    /// Takes out the first thread of the highest priority.
    pub fn pop(&self) -> Option<Ref<Thread>> {
        let thread = self.queues[usize::from(self.highest()?)].first()?;
        self.remove(thread);
        Some(thread)
    }
}

impl Default for Ready {
    fn default() -> Self {
        Self::new()
    }
}
