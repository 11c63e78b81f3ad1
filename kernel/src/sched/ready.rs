//! The ready queues: one per priority, and a bitmap that finds the highest one in constant time.

use crate::list::List;
use crate::memory::Ref;
use crate::object::thread::{InQueue, Thread};
use core::cell::Cell;

/// Ready queues.
pub struct Ready {
    /// One bit for each word of the bitmap that is not 0.
    summary: Cell<u32>,
    /// One bit for each queue that is not empty.
    bitmap: [Cell<u64>; 4],
    queues: [List<InQueue>; 256],
}

impl Ready {
    /// Nobody is ready.
    pub const fn new() -> Ready {
        Ready { summary: Cell::new(0), bitmap: [const { Cell::new(0) }; 4], queues: [const { List::new() }; 256] }
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
        }
    }

    /// Whether somebody of at least this priority is ready.
    #[inline(always)]
    pub fn reaches(&self, priority: u8) -> bool {
        self.summary.get() != 0 && self.highest().is_some_and(|highest| highest >= priority)
    }

    /// The highest priority at which somebody is ready.
    #[inline]
    pub fn highest(&self) -> Option<u8> {
        let index = self.summary.get().checked_ilog2()?;
        let bit = self.bitmap.get(index as usize)?.get().checked_ilog2()?;
        Some((index * 64 + bit) as u8)
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
